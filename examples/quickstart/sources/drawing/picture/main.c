#include "canvas.h"
#include "circles.h"
#include "lines.h"

int main(void)
{
    canvas c;

    canvas_clear(&c);
    circles_fill(&c, 47, 4, 3, 'o');     /* the sun */

    lines_draw(&c, 20, 1, 8, 7, '/');    /* the roof */
    lines_draw(&c, 21, 1, 33, 7, '\\');

    lines_draw(&c, 10, 7, 10, 14, '|');  /* the walls */
    lines_draw(&c, 31, 7, 31, 14, '|');
    lines_draw(&c, 11, 14, 30, 14, '_');

    lines_draw(&c, 18, 11, 18, 14, '[');  /* the door */
    lines_draw(&c, 23, 11, 23, 14, ']');

    lines_draw(&c, 0, 15, 59, 15, '~');  /* the lake */

    canvas_print(&c);
    return 0;
}
