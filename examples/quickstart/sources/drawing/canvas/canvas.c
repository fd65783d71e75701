#include "canvas.h"

#include <stdio.h>
#include <string.h>

void canvas_clear(canvas *c)
{
    memset(c->cells, ' ', sizeof c->cells);
}

void canvas_dot(canvas *c, int x, int y, char ink)
{
    if (x >= 0 && x < CANVAS_WIDTH && y >= 0 && y < CANVAS_HEIGHT)
        c->cells[y][x] = ink;
}

void canvas_print(const canvas *c)
{
    for (int y = 0; y < CANVAS_HEIGHT; y++) {
        int length = CANVAS_WIDTH;
        while (length > 0 && c->cells[y][length - 1] == ' ')
            length--;
        printf("%.*s\n", length, c->cells[y]);
    }
}
