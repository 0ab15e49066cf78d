//! Byte channels and listeners: unix and TCP sockets, files, standard input and output.
