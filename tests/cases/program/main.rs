//! The program as its users meet it: command line, completion, compatibility with the classic, and
//! mail.

mod classic;
mod completion;
mod mail;
mod usage;
