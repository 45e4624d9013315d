//! How much memory an instance may have, over all its memories and tables.

use wasmtime::ResourceLimiter;

use super::limits::MIB;

/// Table elements over all tables: what a large language runtime needs, with
/// room.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Core instances in one component; those of Python have about ten.
const INSTANCES_MAX: usize = 64;

/// Counts what an instance has, and refuses more than it may have.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
}

impl Limiter {
    pub(crate) fn new(memory_bytes_max: usize) -> Self {
        Self { memory_bytes: 0, memory_bytes_max, table_elements: 0 }
    }

    /// What the instance's memories have together, in bytes. They never shrink.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

/// A limit of an instance that was met.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitMet {
    #[error(
        "it asked for {asked_mib} MiB of memory, and may have {limit_mib} (limit `memory_mib`)"
    )]
    Memory { asked_mib: usize, limit_mib: usize },
    #[error("it asked for more than {TABLE_ELEMENTS_MAX} table elements")]
    Table,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let asked = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if asked > self.memory_bytes_max {
            let limit_mib = self.memory_bytes_max / MIB;
            return Err(LimitMet::Memory { asked_mib: asked.div_ceil(MIB), limit_mib }.into());
        }
        self.memory_bytes = asked;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let asked = self.table_elements.saturating_add(desired.saturating_sub(current));
        if asked > TABLE_ELEMENTS_MAX {
            return Err(LimitMet::Table.into());
        }
        self.table_elements = asked;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_at_the_limit_is_given_and_a_page_beyond_is_not() {
        let mut limiter = Limiter::new(2 * MIB);
        assert!(limiter.memory_growing(0, MIB, None).unwrap());
        assert!(limiter.memory_growing(0, MIB, None).unwrap(), "another memory");
        assert_eq!(limiter.memory_bytes(), 2 * MIB);
        let error = limiter.memory_growing(MIB, MIB + 65_536, None).unwrap_err().to_string();
        assert_eq!(error, "it asked for 3 MiB of memory, and may have 2 (limit `memory_mib`)");
        assert_eq!(limiter.memory_bytes(), 2 * MIB, "what was refused is not counted");
    }

    #[test]
    fn table_elements_at_the_limit_are_given_and_one_beyond_is_not() {
        let mut limiter = Limiter::new(0);
        assert!(limiter.table_growing(0, TABLE_ELEMENTS_MAX, None).unwrap());
        let error = limiter.table_growing(0, 1, None).unwrap_err().to_string();
        assert_eq!(error, "it asked for more than 100000 table elements");
    }
}
