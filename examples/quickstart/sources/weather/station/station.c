#include "station.h"

int station_read(FILE *from, struct reading readings[STATION_DAYS])
{
    char line[80];
    int count = 0;

    while (count < STATION_DAYS && fgets(line, sizeof line, from)) {
        struct reading *r = &readings[count];
        if (line[0] == '#')
            continue;
        if (sscanf(line, "%d %lf %d", &r->day, &r->temperature, &r->humidity) != 3)
            return -1;
        count++;
    }
    return count;
}
