/* Reads what a weather station recorded: a line for each day. */
#ifndef STATION_H
#define STATION_H

#include <stdio.h>

struct reading {
    int day;
    double temperature;  /* degrees Celsius */
    int humidity;        /* percent */
};

enum { STATION_DAYS = 31 };

/* Reads "DAY TEMPERATURE HUMIDITY" lines; those that begin with '#' are comments.
   Returns how many there were, or -1 where a line is not understood. */
int station_read(FILE *from, struct reading readings[STATION_DAYS]);

#endif
