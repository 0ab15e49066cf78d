//! Trace points and log items: what -trace and -d select, and where they are written.
