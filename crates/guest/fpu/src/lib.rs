//! IEEE 754 arithmetic with guest rounding modes and exception flags.
