//! The wire protocols. Each file has the same functions: learn one, know all.

pub mod native;
pub mod skills;
