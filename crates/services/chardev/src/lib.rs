//! Character devices: stdio, socket, pty, file, null, ringbuf.
