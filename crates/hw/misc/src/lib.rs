//! Small chips: real-time clock, test finisher, interrupt controllers, flash.
