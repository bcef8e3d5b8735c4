"""A load of visitors who come and leave all the time, for tests in which something fails meanwhile."""
