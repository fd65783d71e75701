#include "station.h"

int main(void)
{
    struct reading readings[STATION_DAYS];
    int count = station_read(stdin, readings);
    if (count < 1) {
        fputs("archive: no readings\n", stderr);
        return 1;
    }

    struct reading coldest = readings[0], warmest = readings[0];
    double sum = 0;
    for (int i = 0; i < count; i++) {
        sum += readings[i].temperature;
        if (readings[i].temperature < coldest.temperature)
            coldest = readings[i];
        if (readings[i].temperature > warmest.temperature)
            warmest = readings[i];
    }
    printf("%d days, %.1f degrees on average\n", count, sum / count);
    printf("coldest: %.1f on day %d\n", coldest.temperature, coldest.day);
    printf("warmest: %.1f on day %d\n", warmest.temperature, warmest.day);
    return 0;
}
