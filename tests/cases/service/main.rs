//! The supervisor of several instances: verbs, sd_notify(3), reloads, and the Debian package.

mod descriptors;
mod health;
mod look_ups;
mod package;
mod reload;
mod replacement;
mod service_manager;
mod status;
mod transcript;
mod verbs;
