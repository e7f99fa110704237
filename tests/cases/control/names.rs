//! Names of instances and servers, in commands, in JSON and in the log.

use serde_json::Value;
use tests::{Backend, Builder, RunDir, TIMEOUT, ask, binary, connect, end_of, eventually, run};

/// Runs `line` for the instance that `operand` means.
fn by_operand(dir: &RunDir, bind: Option<&str>, line: &str, operand: &str) -> tests::Outcome {
    let mut command = std::process::Command::new(binary());
    command.arg("--run-dir").arg(dir.path()).arg("--strict");
    if let Some(bind) = bind {
        command.args(["-b", bind]);
    }
    run(command.args(["-c", line, operand]), TIMEOUT)
}

#[test]
fn commands_take_the_names_of_servers() {
    let dir = RunDir::new();
    let servers = [Backend::greeter("A"), Backend::greeter("B"), Backend::greeter("C")];
    let [a, b, c] = servers.each_ref().map(Backend::address);
    let builder = dir.use_in(Builder::auto());
    let builder = builder.operand(&format!("{a},name=mx1")).operand(&format!("{b},max=2"));
    let balance = builder.operand("!").operand(&format!("{c}:5,name=backup")).start();
    let address = balance.address();
    let second = b.to_string();

    assert_eq!(dir.run_ok(address, "disable mx1"), "channel mx1 disabled\n");
    assert_eq!((0..3).map(|_| ask(address).expect("a server")).collect::<String>(), "BBB");
    assert_eq!(dir.run_ok(address, "disable mx1"), "channel mx1 already disabled\n");
    let disabled = format!("channel {second} disabled\n");
    assert_eq!(dir.run_ok(address, &format!("group 1; disable {second}")), disabled);
    assert_eq!(ask(address).expect("a server"), "C");
    assert_eq!(dir.run_ok(address, "maxc backup 7"), "maxc of channel backup changed to 7\n");
    assert_eq!(dir.show(address)[2].max, 7);
    assert_eq!(dir.show(address)[1].max, 2);
    assert_eq!(dir.run_ok(address, "drain backup 0; enable backup").lines().count(), 2);
    let graph = dir.run_ok(address, "mrtg-conns backup");
    assert_eq!(graph, "1\nUNKNOWN\nUNKNOWN\ngroup 1 channel 0\n");
    dir.run_ok(address, "reset backup; drop backup");
    assert_eq!(dir.show(address)[2].total, 0);

    // A given name stays when the server changes.
    dir.run_ok(address, &format!("assign mx1 {} {}", c.ip(), c.port()));
    assert_eq!(dir.show(address)[0].address, c);
    let table = dir.run_ok(address, "servers");
    let names = table.lines().skip(1).map(|line| line.split_whitespace().next().expect("a name"));
    assert_eq!(names.collect::<Vec<_>>(), ["mx1", second.as_str(), "backup"]);
}

#[test]
fn a_word_that_is_neither_number_nor_name_changes_nothing() {
    let dir = RunDir::new();
    let server = Backend::greeter("A");
    let twin = server.address().to_string();
    let balance =
        dir.use_in(Builder::auto()).operand(&twin).operand(&twin).operand("[::1]:9,name=x").start();
    let address = balance.address();
    let before = dir.show(address);
    for (line, says) in [
        ("disable m2".to_owned(), "no such channel m2"),
        ("drain 0x 1".to_owned(), "no such channel 0x"),
        ("maxc y 1".to_owned(), "unknown channel"),
        ("assign y 127.0.0.1 25".to_owned(), "unknown channel"),
        (format!("disable {twin}"), "several servers have this name, use <group>.<number>"),
        ("create 127.0.0.1,name=x 25".to_owned(), "another server has this name"),
        ("create 127.0.0.1,name=7 25".to_owned(), "invalid address"),
    ] {
        let outcome = run(dir.command(address, &line).arg("--strict"), TIMEOUT);
        assert_eq!(outcome.status.code(), Some(1), "{line}: {outcome:?}");
        assert_eq!(outcome.stdout, format!("{says}\n"), "{line}");
        assert_eq!(dir.show(address), before, "{line}");
    }
    dir.run_ok(address, "create 127.0.0.1:25,name=new 25; enable new; disable 0.3");
}

#[test]
fn an_instance_is_found_by_its_name() {
    let dir = RunDir::new();
    let start = |name: &str| {
        let builder = dir.use_in(Builder::auto()).option(&["--name", name]);
        builder.operand("127.0.0.1:9,name=mx1").start()
    };
    let (one, _two) = (start("inbound"), start("outbound"));
    let found = by_operand(&dir, None, "servers", "inbound");
    assert_eq!(found.status.code(), Some(0), "{found:?}");
    assert_eq!(found.stdout, dir.run_ok(one.address(), "servers"));
    for command in ["show", "servers", "sessions", "stats"] {
        let json = by_operand(&dir, None, &format!("{command} --json"), "outbound");
        let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert_eq!((&json["version"], &json["name"]), (&1.into(), &"outbound".into()), "{command}");
    }

    let unknown = by_operand(&dir, None, "show", "nosuch");
    assert_eq!(unknown.status.code(), Some(69), "{unknown:?}");
    let line = "balance: nosuch: no service and no running instance has this name\n";
    assert_eq!((&*unknown.stdout, &*unknown.stderr), ("", line));

    let _twin = start("inbound");
    let ambiguous = by_operand(&dir, None, "show", "inbound");
    assert_eq!(ambiguous.status.code(), Some(64), "{ambiguous:?}");
    assert!(ambiguous.stderr.contains("several instances have the name inbound: -b "));

    // The name can change while the instance runs.
    dir.configure(&one, &["--name", "renamed", "127.0.0.1:9"]);
    let renamed = by_operand(&dir, None, "servers", "renamed");
    assert!(renamed.stdout.contains("127.0.0.1:9"), "{renamed:?}");
}

#[test]
fn an_instance_on_another_address_is_named() {
    let dir = RunDir::new();
    let balance = dir.use_in(Builder::auto()).operand("127.0.0.1:9").start();
    let address = balance.address();
    let outcome = by_operand(&dir, None, "show", &address.port().to_string());
    assert_eq!(outcome.status.code(), Some(69), "{outcome:?}");
    assert_eq!(outcome.stdout, "no master process, exiting.\n");
    let (port, ip) = (address.port(), address.ip());
    let hint = format!("balance: an instance runs on port {port} with -b {ip}\n");
    assert_eq!(outcome.stderr, hint);
}

#[test]
fn json_and_log_have_the_names_and_the_source_of_a_session() {
    let dir = RunDir::new();
    let server = Backend::echo("A");
    let builder = dir.use_in(Builder::auto()).option(&["-d", "--name", "smtp"]);
    let builder = builder.operand("127.0.0.1:1,name=down");
    let balance = builder.operand(&format!("{},name=mx1", server.address())).start();
    let address = balance.address();
    let ready = balance.wait_for("ready");
    assert_eq!(ready.text("name"), "smtp");
    assert_eq!(ready.text("listener"), address.to_string());
    let json =
        |line: &str| -> Value { serde_json::from_str(&dir.run_ok(address, line)).expect("JSON") };
    let mut client = connect(address);
    let session = eventually(TIMEOUT, "the session has its server", || {
        let sessions = json("sessions --json");
        assert_eq!(sessions["version"], 1);
        let session = sessions["sessions"][0].clone();
        if session["source"].is_null() { Err(session.to_string()) } else { Ok(session) }
    });
    assert_eq!(session["server_name"], "mx1");
    assert_eq!(session["server"], server.address().to_string());
    assert_eq!(session["client"], client.local_addr().expect("getsockname").to_string());
    let servers = json("servers --json");
    assert_eq!(servers["version"], 1);
    assert_eq!(servers["servers"][1]["name"], "mx1");
    assert_eq!(servers["servers"][1]["connections"], 1);
    assert_eq!(json("show --json")["channels"][0]["name"], "down");
    let failed = balance.wait_for("connect failed");
    assert_eq!(failed.text("server_name"), "down");
    assert_eq!(failed.text("server"), "127.0.0.1:1");

    dir.run_ok(address, "drop mx1");
    end_of(&mut client);
    let source = session["source"].as_str().expect("an address");
    let logged = balance.wait_for("session");
    assert_eq!((&*logged.text("source"), &*logged.text("server_name")), (source, "mx1"));
}
