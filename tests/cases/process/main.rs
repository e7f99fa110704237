//! The program as a process: crash, shutdown, log, privileges, and what must not be logged.

mod crash;
mod logging;
mod privileges;
mod secrets;
mod shutdown;
