//! The control socket of an instance: commands, new arguments, scripts and untrusted input.

mod commands;
mod names;
mod reconfigure;
mod rights;
mod scripts;
mod untrusted_input;
