"""One build, from start to verdict: the attempt, its log, its products, the class of a failure."""
