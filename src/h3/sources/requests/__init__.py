"""Request logs: files of requests, the step clock that they pin down, and the step table that follows."""
