//! The pool with real processes, and with clients of the Runtime API that do what no runtime does.
mod functions;
mod hostile;
