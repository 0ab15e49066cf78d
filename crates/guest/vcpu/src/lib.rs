//! Virtual CPUs: the run loop, threads, pause and resume.
