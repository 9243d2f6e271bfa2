//! Tests of the lines, both ways.

use super::*;

const KEY_HEX: &str = "000102030405060708090a0b0c0d0e0f";

fn refused(line: &str) -> String {
    match Request::from_line(line.as_bytes()) {
        Ok(_) => panic!("{line} was taken"),
        Err(failure) => {
            assert_eq!(failure.code, ErrorCode::BadRequest, "{line}");
            failure.message
        }
    }
}

#[test]
fn requests_are_read() {
    let read = |line: &str| Request::from_line(line.as_bytes()).unwrap();
    assert!(matches!(read(r#"{"op":"status"}"#), Request::Status {}));
    assert!(matches!(read("{\"op\":\"peers\"}\n"), Request::Peers {}));
    assert!(matches!(
        read(r#"{"op":"events"}"#),
        Request::Events {
            after: None,
            limit: 100
        }
    ));
    assert!(matches!(
        read(r#"{"op":"events","after":7,"limit":3}"#),
        Request::Events {
            after: Some(7),
            limit: 3
        }
    ));
    assert!(matches!(
        read(r#"{"op":"rekey-interval","interval_s":null}"#),
        Request::RekeyInterval { interval_s: None }
    ));
    assert!(matches!(
        read(r#"{"op":"rekey-interval","interval_s":90}"#),
        Request::RekeyInterval {
            interval_s: Some(90)
        }
    ));
    assert!(matches!(
        read(r#"{"op":"rekey-now"}"#),
        Request::RekeyNow {}
    ));
    let Request::MasterSet { key, force: false } =
        read(&format!(r#"{{"op":"master-set","key":"{KEY_HEX}"}}"#))
    else {
        panic!("not master-set");
    };
    assert_eq!(key.octets(), (0..16).collect::<Vec<u8>>());
    let line = format!(r#"{{"op":"master-stage","key":"{KEY_HEX}","replace":true}}"#);
    assert!(matches!(
        read(&line),
        Request::MasterStage { replace: true, .. }
    ));
    assert!(matches!(
        read(r#"{"op":"master-activate"}"#),
        Request::MasterActivate {}
    ));
    assert!(matches!(
        read(r#"{"op":"master-retire"}"#),
        Request::MasterRetire { force: false }
    ));
    assert!(matches!(
        read(r#"{"op":"master-status"}"#),
        Request::MasterStatus {}
    ));
    assert!(matches!(
        read(r#"{"op":"evict","node":1004}"#),
        Request::Evict { node: 1004 }
    ));
    assert!(matches!(
        read(r#"{"op":"readmit","node":1004}"#),
        Request::Readmit { node: 1004 }
    ));
}

#[test]
fn a_request_survives_its_line() {
    let key = MasterKey::parse(KEY_HEX).unwrap();
    let line = Request::MasterSet { key, force: true }.to_line().unwrap();
    assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
    let Ok(Request::MasterSet { key, force: true }) = Request::from_line(&line) else {
        panic!("not master-set");
    };
    assert!(key.same_as(&MasterKey::parse(KEY_HEX).unwrap()));
}

#[test]
fn bad_requests_say_what_is_wrong() {
    for (line, expected) in [
        ("", "not a JSON object"),
        ("hello", "not a JSON object"),
        (r#"{"op":"status""#, "not a JSON object"),
        (r#"{"op":"reboot"}"#, "reboot"),
        (r#"{"oops":"status"}"#, "op"),
        ("[]", ""),
        ("null", ""),
        (r#"{"op":"status","verbose":true}"#, "verbose"),
        (r#"{"op":"peers","node":3}"#, "node"),
        (r#"{"op":"events","limit":-1}"#, "-1"),
        (r#"{"op":"rekey-interval"}"#, "interval_s"),
        (r#"{"op":"rekey-interval","interval_s":0}"#, "zero"),
        (r#"{"op":"rekey-interval","interval_s":-5}"#, "-5"),
        (r#"{"op":"rekey-interval","interval_s":1e30}"#, "u32"),
        (
            r#"{"op":"rekey-interval","interval_s":31536001}"#,
            "too long",
        ),
        (r#"{"op":"rekey-interval","interval_s":"10m"}"#, "10m"),
        (r#"{"op":"evict"}"#, "node"),
        (r#"{"op":"evict","node":-1}"#, "-1"),
        (r#"{"op":"master-set"}"#, "key"),
        (r#"{"op":"master-stage"}"#, "key"),
        (r#"{"op":"master-retire","force":1}"#, "force"),
        (r#"{"op":"master-activate","key":"0000"}"#, "master-set"),
        (r#"{"op":"master-set","key":"0000"}"#, "2 octets"),
    ] {
        let message = refused(line);
        assert!(message.contains(expected), "{line}: {message}");
    }
}

#[test]
fn a_refusal_never_repeats_a_key() {
    for line in [
        r#"{"op":"master-set","key":"deadbeef"}"#,
        r#"{"op":"master-set","key":3735928559}"#,
        r#"{"op":"master-set","key":["deadbeef"]}"#,
        r#"{"op":"master-stage","key":"deadbeef"}"#,
        r#"{"op":"master-retire","key":"x","force":"deadbeef"}"#,
        r#"{"op":"master-set","deadbeef":"key"}"#,
        r#"{"op":"deadbeef","key":"x"}"#,
        r#"{"op":"rekey-interval","key":"x","interval_s":"deadbeef"}"#,
        r#"{"key":"deadbeefdeadbeef"#,
    ] {
        let message = refused(line);
        assert!(!message.contains("deadbeef"), "{message}");
        assert!(!message.contains("3735928559"), "{message}");
    }
}

#[test]
fn a_long_request_gets_a_short_answer() {
    let line = format!(r#"{{"op":"{}"}}"#, "x".repeat(60_000));
    assert!(refused(&line).len() <= 300);
    let line = vec![b' '; MAX_REQUEST_LEN + 1];
    let Err(failure) = Request::from_line(&line) else {
        panic!("taken");
    };
    assert_eq!(failure.code, ErrorCode::TooLarge);
}

#[test]
fn responses_come_back_as_they_went() {
    let report = PeersReport {
        master_id: None,
        peers: vec![PeerReport {
            node: 1002,
            link: LinkState::Up,
            tx_epoch: Some(3),
            drops: [("replayed".to_owned(), 4)].into(),
            ..PeerReport::default()
        }],
    };
    let line = response_to_line(&Ok(Reply::Peers(report.clone())));
    assert!(line.starts_with(
        br#"{"ok":true,"result":{"master_id":null,"peers":[{"node":1002,"link":"up","#
    ));
    assert_eq!(result_from_line::<PeersReport>(&line).unwrap(), report);

    let failure = Failure::new(ErrorCode::NoMasterKey, "no master key");
    let line = response_to_line(&Err(failure.clone()));
    assert_eq!(
        line,
        b"{\"ok\":false,\"error\":{\"code\":\"no-master-key\",\"message\":\"no master key\"}}\n"
    );
    let Err(ResponseError::Refused(read)) = result_from_line::<PeersReport>(&line) else {
        panic!("not refused");
    };
    assert_eq!(read, failure);
}

#[test]
fn answers_of_a_newer_daemon_are_understood() {
    let line = br#"{"ok":false,"error":{"code":"too-early","message":"later"}}"#;
    let Err(ResponseError::Refused(failure)) = raw_result_from_line(line) else {
        panic!("not refused");
    };
    assert_eq!(failure.code, ErrorCode::Unknown);
    let line = br#"{"ok":true,"result":{"interval_s":5,"jitter":0.1}}"#;
    let report: RekeyIntervalReport = result_from_line(line).unwrap();
    assert_eq!(report.interval_s, Some(5));
    for garbage in [
        &b""[..],
        b"{}",
        b"{\"ok\":true}",
        b"{\"ok\":false}",
        b"\xff",
    ] {
        let error = raw_result_from_line(garbage).unwrap_err();
        assert!(matches!(error, ResponseError::Format(_)), "{error}");
    }
}

#[test]
fn an_answer_that_is_too_long_becomes_an_error() {
    let event = EventReport {
        text: "x".repeat(MAX_RESPONSE_LEN),
        ..EventReport::default()
    };
    let line = response_to_line(&Ok(Reply::Events(EventsReport {
        events: vec![event],
    })));
    assert!(line.len() < 200);
    let Err(ResponseError::Refused(failure)) = raw_result_from_line(&line) else {
        panic!("not refused");
    };
    assert_eq!(failure.code, ErrorCode::TooLarge);
}
