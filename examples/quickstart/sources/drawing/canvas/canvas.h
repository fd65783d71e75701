/* A drawing surface made of characters. */
#ifndef CANVAS_H
#define CANVAS_H

enum { CANVAS_WIDTH = 60, CANVAS_HEIGHT = 16 };

typedef struct {
    char cells[CANVAS_HEIGHT][CANVAS_WIDTH];
} canvas;

void canvas_clear(canvas *c);

/* One character; (0, 0) is the top left corner. Outside the canvas nothing happens. */
void canvas_dot(canvas *c, int x, int y, char ink);

/* To standard output, without blanks at the ends of lines. */
void canvas_print(const canvas *c);

#endif
