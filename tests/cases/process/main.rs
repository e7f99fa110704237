//! The program as a process: crash, shutdown, log, privileges, and no secrets in the log.

mod crash;
mod logging;
mod privileges;
mod secrets;
mod shutdown;
