#include "station.h"

/* Tomorrow goes on as the last two days went, a little less. */
static double tomorrow(const struct reading *yesterday, const struct reading *today)
{
    double trend = today->temperature - yesterday->temprature;

    return today->temperature + 0.8 * trend;
}

int main(void)
{
    struct reading readings[STATION_DAYS];
    int count = station_read(stdin, readings);
    if (count < 2) {
        fputs("forecast: fewer than two readings\n", stderr);
        return 1;
    }

    const struct reading *today = &readings[count - 1];
    printf("tomorrow: %.1f degrees, ", tomorrow(today - 1, today));
    puts(today->humidity > 65 ? "rain" : "dry");
    return 0;
}
