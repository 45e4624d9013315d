use super::*;

/// What was heard, owned.
#[derive(Debug, PartialEq, Eq)]
enum Kept {
    Message(Vec<u8>, u64),
    Ping(Vec<u8>),
    Close(u16),
}

fn keep(heard: Heard<'_>) -> Kept {
    match heard {
        Heard::Message { head, bytes } => Kept::Message(head.to_vec(), bytes),
        Heard::Ping(payload) => Kept::Ping(payload.to_vec()),
        Heard::Close(code) => Kept::Close(code),
    }
}

/// What a scanner hears in pieces.
fn hear<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Kept>, Broken> {
    let mut scanner = Scanner::default();
    let mut heard = Vec::new();
    for piece in pieces {
        scanner.feed(piece, &mut |one| heard.push(keep(one)))?;
    }
    Ok(heard)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut frame = vec![first];
    match length {
        0..=125 => frame.push(length as u8),
        126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// A stream with everything in it, and what is to be heard.
fn everything() -> (Vec<u8>, Vec<Kept>) {
    let middle = [b'm'; 600];
    let stream = [
        frame(0x81, b"short"),
        frame(0x89, b"are you there"),
        frame(0x81, b""),
        frame(0x82, &middle),
        // A message in four frames, the second empty, with a ping between.
        frame(0x01, b"frag"),
        frame(0x00, b""),
        frame(0x89, b""),
        frame(0x00, b"ment"),
        frame(0x8a, b"a pong that nobody asked for"),
        frame(0x80, &middle),
        frame(0x81, b"{}"),
        frame(0x88, &[&3001_u16.to_be_bytes(), &b"bye"[..]].concat()),
    ];
    let head = [&b"fragment"[..], &[b'm'; HEAD_BYTES_MAX - 8]].concat();
    let heard = vec![
        Kept::Message(b"short".to_vec(), 5),
        Kept::Ping(b"are you there".to_vec()),
        Kept::Message(Vec::new(), 0),
        Kept::Message(vec![b'm'; HEAD_BYTES_MAX], 600),
        Kept::Ping(Vec::new()),
        Kept::Message(head, 608),
        Kept::Message(b"{}".to_vec(), 2),
        Kept::Close(3001),
    ];
    (stream.concat(), heard)
}

#[test]
fn a_stream_is_heard_alike_wherever_it_is_split() {
    let (stream, heard) = everything();
    for at in 0..=stream.len() {
        let (begun, rest) = stream.split_at(at);
        assert_eq!(hear([begun, rest]).unwrap(), heard, "split at {at}");
    }
}

#[test]
fn a_stream_is_heard_alike_in_pieces_of_any_size() {
    let (stream, heard) = everything();
    for size in 1..=stream.len() {
        assert_eq!(hear(stream.chunks(size)).unwrap(), heard, "pieces of {size}");
    }
}

#[test]
fn a_long_message_is_counted_and_not_kept() {
    let long = vec![b'x'; 200_000];
    let stream = [frame(0x81, &long), frame(0x81, b"next")].concat();
    let heard = vec![
        Kept::Message(vec![b'x'; HEAD_BYTES_MAX], 200_000),
        Kept::Message(b"next".to_vec(), 4),
    ];
    for size in [1, 3, 4096, 65_536, stream.len()] {
        assert_eq!(hear(stream.chunks(size)).unwrap(), heard, "pieces of {size}");
    }
}

#[test]
fn a_message_that_comes_whole_costs_no_memory() {
    let mut scanner = Scanner::default();
    scanner.feed(&frame(0x81, &[b'x'; 2048]), &mut |_| {}).unwrap();
    assert_eq!((scanner.head.capacity(), scanner.control.capacity()), (0, 0));
}

#[test]
fn a_close_without_a_code_has_one() {
    for payload in [&b""[..], b"\x03"] {
        assert_eq!(hear([&*frame(0x88, payload)]).unwrap(), [Kept::Close(CLOSED_WITHOUT_CODE)]);
    }
}

#[test]
fn what_no_server_may_send_is_told() {
    let masked = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
    let endless = [0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0];
    for (stream, words) in [
        (masked.to_vec(), "masked"),
        (endless.to_vec(), "longer than"),
        (frame(0xc1, b"hi"), "reserved"),
        (frame(0x80, b"hi"), "continuation"),
        ([frame(0x01, b"a"), frame(0x81, b"b")].concat(), "within a message"),
        (frame(0x83, b"hi"), "unknown kind"),
        (frame(0x09, b"hi"), "control frame"),
        (frame(0x89, &[0; 126]), "control frame"),
    ] {
        let error = hear([&*stream]).unwrap_err().to_string();
        assert!(error.contains(words), "{stream:?} is {error}");
    }
}
