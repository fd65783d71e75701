#ifndef FIGURES_H
#define FIGURES_H

/* Areas of figures of one size. */
double circle(double radius);
double square(double side);
double triangle(double side);
double total(double size);

#endif
