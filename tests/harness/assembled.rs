//! Components that no compiler would write, put together byte by byte.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A collector whose exports trap, and what is odd about its core module.
#[derive(Clone, Copy, Default)]
pub(crate) struct Assembled {
    /// What it does as it is started.
    pub(crate) start: Option<Start>,
    /// The pages of its memory.
    pub(crate) pages: u32,
    /// The elements of its table.
    pub(crate) elements: u32,
}

/// What a start function does.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    Trap,
    Spin,
}

const EXPORT: &str = "telltale:plugin/collect@0.1.0#";
const UNREACHABLE: &[u8] = &[0x00, 0x0b];
/// `loop br 0 end`
const FOR_EVER: &[u8] = &[0x03, 0x40, 0x0c, 0x00, 0x0b, 0x0b];

impl Assembled {
    /// The component's bytes.
    pub(crate) fn component(self) -> Vec<u8> {
        let mut module = self.module();
        let mut resolve = Resolve::default();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let (package, _) = resolve.push_path(wit).unwrap();
        let world = resolve.select_world(&[package], Some("collector")).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
    }

    /// Function 0 is the start function; those that follow are exported.
    fn module(self) -> Vec<u8> {
        let (i32, i64) = (0x7f, 0x7e);
        let signatures: [(&[u8], &[u8]); 4] =
            [(&[], &[]), (&[i32; 2], &[i32]), (&[i64; 2], &[i32]), (&[i32; 4], &[i32])];
        let types = signatures
            .map(|(parameters, results)| [&[0x60], &*list(parameters), &*list(results)].concat());
        let exports = [
            (format!("{EXPORT}configure"), [0, 1]),
            (format!("{EXPORT}collect"), [0, 2]),
            ("cabi_realloc".to_owned(), [0, 3]),
            ("memory".to_owned(), [2, 0]),
        ];
        let exports = exports.map(|(name, what)| [&*list(name.as_bytes()), &what].concat());
        let start = match self.start {
            Some(Start::Spin) => FOR_EVER,
            _ => UNREACHABLE,
        };
        let bodies = [start, UNREACHABLE, UNREACHABLE, UNREACHABLE]
            .map(|code| list(&[&[0x00], code].concat()));
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        module.extend(section(1, &items(&types)));
        module.extend(section(3, &list(&[0, 1, 2, 3])));
        module.extend(section(4, &items(&[[&[0x70, 0x00], &*number(self.elements)].concat()])));
        module.extend(section(5, &items(&[[&[0x00], &*number(self.pages)].concat()])));
        module.extend(section(7, &items(&exports)));
        if self.start.is_some() {
            module.extend(section(8, &[0]));
        }
        module.extend(section(10, &items(&bodies)));
        module
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], &*list(content)].concat()
}

/// How many they are, and the items.
fn items(items: &[Vec<u8>]) -> Vec<u8> {
    [number(u32::try_from(items.len()).unwrap()), items.concat()].concat()
}

/// How many bytes they are, and the bytes.
fn list(bytes: &[u8]) -> Vec<u8> {
    [&*number(u32::try_from(bytes.len()).unwrap()), bytes].concat()
}

/// LEB128.
fn number(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
