//! What deploy/docker-compose.yml runs, run here without containers: the file's own commands,
//! environments, secrets (made by deploy/secrets.sh) and configs. Only what containers give (names,
//! ports, folders) is put in another place; all that is left of it afterwards fails the test.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use natter_tests::{
    client::Client,
    nats::NatsServer,
    nginx::{self, put},
    node::Node,
    postgres::Postgres,
    process::{Folder, PATIENCE, Process, binary, command, free_port},
    sql::Sql,
    token::{User, now, sign},
};
use serde_json::{Value, json};

/// The deploy folder of a user, with the secrets made.
struct Deploy {
    folder: PathBuf,
    services: Value,
    /// What .env says.
    variables: BTreeMap<String, String>,
}

impl Deploy {
    fn make(folder: PathBuf) -> Result<Self> {
        fs::create_dir(&folder)?;
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        for file in ["docker-compose.yml", "secrets.sh", ".env.example", "nats.conf", "nginx.conf"] {
            fs::copy(shipped.join(file), folder.join(file)).with_context(|| file.to_owned())?;
        }
        let made = Command::new(folder.join("secrets.sh")).env("NATTER_PERSISTER", binary("natter-persister")).output()?;
        ensure!(made.status.success(), "secrets.sh: {}", String::from_utf8_lossy(&made.stderr));
        let variables = fs::read_to_string(folder.join(".env"))?
            .lines()
            .filter_map(|line| line.split_once('=').filter(|_| !line.starts_with('#')))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let mut file: serde_yaml_ng::Value = serde_yaml_ng::from_str(&fs::read_to_string(folder.join("docker-compose.yml"))?)?;
        file.apply_merge()?;
        let file: Value = serde_json::to_value(file)?;
        Ok(Self { folder, services: file["services"].clone(), variables })
    }

    fn service(&self, name: &str) -> &Value {
        &self.services[name]
    }

    /// With the variables filled in: `${NAME:?why}` and `${NAME:-default}`.
    fn fill_in(&self, text: &str) -> Result<String> {
        let Some((before, rest)) = text.split_once("${") else { return Ok(text.to_owned()) };
        let (inside, after) = rest.split_once('}').context("an open ${")?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside.split_once(":?").map_or(inside, |(name, _)| name), None),
        };
        let value = self.variables.get(name).map(String::as_str).or(default).with_context(|| format!("{name} is not in .env"))?;
        Ok(format!("{before}{value}{}", self.fill_in(after)?))
    }

    fn environment(&self, service: &str) -> Result<Vec<(String, String)>> {
        let environment = self.service(service)["environment"].as_object().context("an environment")?;
        let pair = |(key, value): (&String, &Value)| Ok((key.clone(), self.fill_in(value.as_str().context("a text")?)?));
        environment.iter().map(pair).collect()
    }

    fn secret(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("secrets").join(name))?.trim().to_owned())
    }
}

/// The texts of a list.
fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// One of our services as the file has it, and its health check.
struct Service {
    node: Node,
    env: Vec<(String, String)>,
    check: Vec<String>,
}

impl Service {
    /// Starts it with what it listens on by `listen`, and `places` for what containers have.
    fn start(deploy: &Deploy, name: &str, listen: &str, places: &[(&str, &str, String)]) -> Result<Self> {
        let service = deploy.service(name);
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let granted = texts(&service["secrets"]);
        let mut unused: Vec<&str> = places.iter().map(|(key, ..)| *key).collect();
        let mut env = Vec::new();
        for (key, value) in deploy.environment(name)? {
            let value = if key == listen {
                ensure!(value.starts_with("0.0.0.0:"), "{name} listens on {value}, where no other container comes");
                addr.to_string()
            } else if let Some(secret) = value.strip_prefix("/run/secrets/") {
                ensure!(granted.iter().any(|grant| grant == secret), "{name} is not given {secret}");
                let path = deploy.folder.join("secrets").join(secret);
                let place = places.iter().find(|(place, ..)| *place == key);
                unused.retain(|place| *place != key);
                if let Some((_, from, to)) = place {
                    let here = path.with_extension("here");
                    fs::write(&here, put(&fs::read_to_string(&path)?, &[(from, to.clone())])?)?;
                    here.display().to_string()
                } else {
                    path.display().to_string()
                }
            } else if let Some((_, from, to)) = places.iter().find(|(place, ..)| *place == key) {
                unused.retain(|place| *place != key);
                put(&value, &[(from, to.clone())])?
            } else {
                // Used as it is: nothing of a container's may be in it.
                ensure!(!value.contains(['/', ':']), "{name}: {key}={value} is of a container");
                value
            };
            env.push((key, value));
        }
        ensure!(unused.is_empty(), "{name} has no {unused:?}");
        let run = texts(&service["command"]);
        let (program, args) = run.split_first().context("a command")?;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let process = Process::start(name, &binary(program), &args, &env, &deploy.folder)?;
        Ok(Self { node: Node::new(process, addr), env, check: texts(&service["healthcheck"]["test"]) })
    }

    /// Its health check, in its own environment, as the container's engine runs it.
    fn is_healthy(&self) -> Result<bool> {
        let [kind, program, args @ ..] = self.check.as_slice() else { bail!("no health check") };
        ensure!(kind == "CMD", "there is no shell in the image: {kind}");
        let mut check = command(&binary(program));
        Ok(check.args(args).envs(self.env.iter().map(|(key, value)| (key, value))).output()?.status.success())
    }

    /// How many sockets it has now.
    async fn sockets(&self) -> Result<u64> {
        let now = self.node.metric("natter_gateway_connections").await?;
        Ok(now.context("natter_gateway_connections")? as u64)
    }
}

fn nats(deploy: &Deploy) -> Result<NatsServer> {
    let service = deploy.service("nats");
    assert_eq!(service["command"], json!(["-c", "/etc/nats/nats.conf"]));
    assert_eq!(service["volumes"], json!(["./nats.conf:/etc/nats/nats.conf:ro", "nats:/data"]));
    let (stores, env): (Vec<_>, Vec<_>) = deploy.environment("nats")?.into_iter().partition(|(key, _)| key == "NATTER_NATS_STORE");
    assert_eq!(stores[0].1, "/data", "the volume");
    Ok(NatsServer::start_shipped(env, &[])?)
}

/// What docs/deployment.md tells a back end to ask is there.
fn documented_addresses(deploy: &Deploy) -> Result<()> {
    let doc = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/deployment.md"))?;
    for name in ["gateway-1", "gateway-2"] {
        let environment = deploy.environment(name)?;
        let listen = environment.iter().find(|(key, _)| key == "NATTER_HTTP__LISTEN").context("NATTER_HTTP__LISTEN")?;
        let port = listen.1.rsplit_once(':').context("a port")?.1;
        ensure!(doc.contains(&format!("`http://{name}:{port}`")), "docs/deployment.md does not say where {name} is");
        let published = format!("  {name}: {{ <<: *gateway, ports: [\"127.0.0.1:8090:{port}\"] }}");
        ensure!(name != "gateway-1" || doc.contains(&published), "docs/deployment.md publishes another port");
    }
    Ok(())
}

fn balancer(deploy: &Deploy, addr: SocketAddr, gateways: &[Service]) -> Result<Process> {
    assert_eq!(deploy.service("balancer")["volumes"], json!(["./nginx.conf:/etc/nginx/nginx.conf:ro"]));
    let places = [("gateway-1:8080", gateways[0].node.addr.to_string()), ("gateway-2:8080", gateways[1].node.addr.to_string())];
    nginx::start(&deploy.folder.join("nginx.conf"), &deploy.folder, addr, &places)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_compose_file_runs_lets_users_chat_over_both_gateways() -> Result<()> {
    let folder = Folder::new()?;
    let deploy = Deploy::make(folder.path().join("deploy"))?;
    let names: Vec<&String> = deploy.services.as_object().context("services")?.keys().collect();
    assert_eq!(names, ["balancer", "gateway-1", "gateway-2", "nats", "persister-1", "persister-2", "postgres"], "all are tried here");
    documented_addresses(&deploy)?;
    let nats = nats(&deploy)?;
    // As the image does it: this password and no other.
    let postgres = Postgres::start_with_password(&deploy.secret("postgres_password")?)?;
    let database = postgres.create_database()?;
    let here = database.split_once('@').context("a URL")?.1.to_owned();
    assert!(Sql::connect(&format!("postgres://natter:another@{here}")).await.is_err(), "the password is asked for");
    let nats_at = ("NATTER_NATS__URL", "nats://nats:4222", nats.client_url());
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));

    let places = [nats_at.clone(), ("NATTER_DATABASE__URL_FILE", "postgres:5432/natter", here)];
    let mut services = Vec::new();
    for name in ["persister-1", "persister-2"] {
        services.push(Service::start(&deploy, name, "NATTER_PERSISTER__HTTP_LISTEN", &places)?);
    }
    let subnet = deploy.variables["NATTER_SUBNET"].clone();
    let places = [
        nats_at,
        ("NATTER_HTTP__PUBLIC_URL", "localhost:8080", listen.to_string()),
        ("NATTER_HTTP__TRUSTED_PROXIES", subnet.as_str(), "127.0.0.0/8".to_owned()),
    ];
    let mut gateways = Vec::new();
    for name in ["gateway-1", "gateway-2"] {
        gateways.push(Service::start(&deploy, name, "NATTER_HTTP__LISTEN", &places)?);
    }
    for service in services.iter_mut().chain(&mut gateways) {
        service.node.wait_ready().await?;
        assert!(service.is_healthy()?, "its health check fails");
    }
    let mut balancer = Node::new(balancer(&deploy, listen, &gateways)?, listen);
    balancer.wait_ready().await?;
    assert_eq!(balancer.status("/metrics").await, Some(404), "metrics are not for everybody");
    let server_api = "/api/v1/server/notifications";
    assert_eq!(balancer.status(server_api).await, Some(404), "the server API is not for everybody");
    assert_ne!(gateways[0].node.status(server_api).await, Some(404), "back ends ask a gateway");
    assert_eq!(balancer.status("/healthz").await, Some(200), "the balancer's health check");

    let secret = deploy.secret("auth_secret")?;
    let mut clients = Vec::new();
    for name in ["ann", "ben", "cem", "dag"] {
        let user = User::named(name);
        let claims = json!({"sub": user.id, "preferred_username": user.handle, "name": user.name, "iss": "natter", "aud": "natter", "exp": now() + 600});
        let mut client = Client::with_token(&user, sign(&claims, &secret));
        client.insist_for = PATIENCE;
        client.reconnect(listen).await?;
        clients.push(client);
    }
    let sockets = [gateways[0].sockets().await?, gateways[1].sockets().await?];
    assert_eq!(sockets, [2, 2], "the balancer gives the next socket to who has fewest");
    let group = clients[0].join("lobby").await?;
    for client in &clients[1..] {
        assert_eq!(client.join("lobby").await?, group);
    }
    for (client, body) in clients.iter().zip(["one", "two", "three", "four"]) {
        client.send(group, body).await?;
    }
    for client in &clients {
        client.wait_for_body("four").await?;
        assert_eq!(client.bodies(group), ["one", "two", "three", "four"]);
    }

    // A health check that can't fail says nothing.
    services[0].node.process.kill()?;
    let until = Instant::now() + Duration::from_secs(10);
    while services[0].is_healthy()? {
        ensure!(Instant::now() < until, "a killed persister is healthy");
    }
    assert!(services[1].is_healthy()?, "the second persister");
    Ok(())
}
