//! QMP and HMP sessions, command tables, events.
