//! Every QAPI type, command and event, one module for each schema file.
