//! The server with the client of `corelane-drivers` and with clients that misbehave, over a device that only takes notes.

mod broken;
mod fake;
mod life;
mod loopback;
