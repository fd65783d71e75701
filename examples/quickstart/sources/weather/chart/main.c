#include "canvas.h"
#include "lines.h"
#include "station.h"

static int row_of(const struct reading *r)
{
    int row = CANVAS_HEIGHT - 2 - (int)(r->temperature * 0.7);
    return row < 0 ? 0 : row;
}

int main(void)
{
    struct reading readings[STATION_DAYS];
    int count = station_read(stdin, readings);
    if (count < 2) {
        fputs("chart: fewer than two readings\n", stderr);
        return 1;
    }

    canvas c;
    canvas_clear(&c);
    lines_draw(&c, 0, 0, 0, CANVAS_HEIGHT - 2, '|');
    lines_draw(&c, 0, CANVAS_HEIGHT - 1, 2 * count, CANVAS_HEIGHT - 1, '-');
    for (int i = 1; i < count; i++)
        lines_draw(&c, 2 * i, row_of(&readings[i - 1]), 2 * i + 2, row_of(&readings[i]), '*');
    canvas_print(&c);
    return 0;
}
