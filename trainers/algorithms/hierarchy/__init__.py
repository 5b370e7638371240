"""Methods that divide an episode into sub-goals. One method, one file."""
