//! A real Kubernetes API: etcd and kube-apiserver as processes, RBAC on, and kubectl as a user has it.

mod assets;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;

pub use assets::{Assets, KUBERNETES, cache_directory};

use crate::{Launch, Namespace, Program, free_port};

/// kube-apiserver is ready in 4 s alone; a busy machine of two cores may take many times that.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Somebody who may call the API, by token.
#[derive(Debug, Clone)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    /// A user with these groups.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
        }
    }
}

/// How the API server runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens, and what its certificate names beside 127.0.0.1.
    pub address: IpAddr,
    /// Users beside `admin` (system:masters); each gets a kubeconfig.
    pub users: Vec<User>,
    /// More flags of kube-apiserver.
    pub flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            users: Vec::new(),
            flags: Vec::new(),
        }
    }
}

/// A running API server. Dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Kube {
    // Dropped in this order: the API server before the store under it.
    apiserver: Program,
    etcd: Program,
    kubectl: Kubectl,
    address: SocketAddr,
    url: String,
    assets: Assets,
    options: Options,
    directory: TempDir,
}

/// kubectl with an administrator's kubeconfig.
#[derive(Debug)]
struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
    /// Where it runs, if not in this process's own namespace.
    namespace: Option<String>,
}

impl Kube {
    /// Starts etcd and kube-apiserver on loopback and waits until they are ready.
    pub fn start(assets: &Assets) -> anyhow::Result<Self> {
        Self::start_with(assets, None, &Options::default())
    }

    /// The same, inside a namespace if one is given.
    pub fn start_with(
        assets: &Assets,
        namespace: Option<&Namespace>,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("pharos-kube-").tempdir()?;
        let path = directory.path();
        let secrets = write_certificates(path, options.address)?;
        let (etcd_url, etcd) = start_etcd(assets, namespace, path)?;
        let address = SocketAddr::new(options.address, free_port());
        let url = format!("https://{address}");
        write_users(path, &url, &secrets, &options.users)?;
        let apiserver = start(
            Launch::program(&assets.kube_apiserver)
                .args(apiserver_flags(path, address, &etcd_url, options)),
            namespace,
        )?;
        let mut kube = Self {
            apiserver,
            etcd,
            kubectl: Kubectl {
                program: assets.kubectl.clone(),
                kubeconfig: kubeconfig_path(path, "admin"),
                cache: path.join("kubectl-cache"),
                namespace: namespace.map(|namespace| namespace.name().to_owned()),
            },
            address,
            url,
            assets: assets.clone(),
            options: options.clone(),
            directory,
        };
        kube.wait_ready(namespace, address)?;
        Ok(kube)
    }

    /// Base URL of the API.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The administrator's kubeconfig (group system:masters).
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of("admin")
    }

    /// The kubeconfig of one of [`Options::users`].
    pub fn kubeconfig_of(&self, user: &str) -> PathBuf {
        kubeconfig_path(self.directory.path(), user)
    }

    /// kube-apiserver itself, to pause or to kill.
    pub fn apiserver(&mut self) -> &mut Program {
        &mut self.apiserver
    }

    /// etcd itself.
    pub fn etcd(&mut self) -> &mut Program {
        &mut self.etcd
    }

    /// Kills both and starts them again with nothing stored, at the same address and with the same
    /// users: a restore that went wrong. For one that runs in no namespace of its own.
    pub fn lose_store(&mut self) -> anyhow::Result<()> {
        self.apiserver.kill()?;
        self.etcd.kill()?;
        let path = self.directory.path();
        std::fs::remove_dir_all(path.join("etcd"))?;
        let (etcd_url, etcd) = start_etcd(&self.assets, None, path)?;
        self.etcd = etcd;
        let flags = apiserver_flags(path, self.address, &etcd_url, &self.options);
        self.apiserver = start(
            Launch::program(&self.assets.kube_apiserver).args(flags),
            None,
        )?;
        self.wait_ready(None, self.address)
    }

    /// Runs kubectl as administrator and gives its stdout; an error carries its stderr.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl.run(arguments)
    }

    /// `kubectl apply -f -` of YAML or JSON text.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), manifest)?;
        self.kubectl(&["apply", "-f", &file.path().to_string_lossy()])
    }

    fn wait_ready(
        &mut self,
        namespace: Option<&Namespace>,
        address: SocketAddr,
    ) -> anyhow::Result<()> {
        self.apiserver.wait_tcp(namespace, address, READY_WITHIN)?;
        let kubectl = &self.kubectl;
        self.apiserver
            .wait_until("kube-apiserver is ready", READY_WITHIN, || {
                kubectl.run(&["get", "--raw=/readyz"]).ok()?;
                // Where objects without a namespace land; it is made just after that.
                kubectl.run(&["get", "namespace", "default"]).ok()
            })?;
        Ok(())
    }
}

impl Kubectl {
    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command
                    .args(["netns", "exec", namespace])
                    .arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        let output = command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(arguments)
            .output()
            .context("starting kubectl")?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn start(launch: Launch, namespace: Option<&Namespace>) -> anyhow::Result<Program> {
    match namespace {
        Some(namespace) => launch.start_in(namespace),
        None => launch.start(),
    }
}

fn start_etcd(
    assets: &Assets,
    namespace: Option<&Namespace>,
    path: &Path,
) -> anyhow::Result<(String, Program)> {
    let client = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let url = format!("http://{client}");
    let peer = format!("http://127.0.0.1:{}", free_port());
    let launch = Launch::program(&assets.etcd)
        .arg("--data-dir")
        .arg(path.join("etcd"))
        .args([
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
        ])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        // What it stores lives no longer than the test.
        .arg("--unsafe-no-fsync");
    let mut etcd = start(launch, namespace)?;
    etcd.wait_tcp(namespace, client, READY_WITHIN)?;
    Ok((url, etcd))
}

fn apiserver_flags(path: &Path, address: SocketAddr, etcd: &str, options: &Options) -> Vec<String> {
    let file = |name: &str| path.join(name).display().to_string();
    let mut flags = vec![
        format!("--etcd-servers={etcd}"),
        format!("--bind-address={}", address.ip()),
        format!("--advertise-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        format!("--cert-dir={}", file("certs")),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", file("accounts.pub")),
        format!(
            "--service-account-signing-key-file={}",
            file("accounts.key")
        ),
        // No controller makes the default ServiceAccount that this plugin asks for.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16,fd96::/112".to_owned(),
        // No other member will ever come, and no kubelet.
        "--endpoint-reconciler-type=none".to_owned(),
    ];
    flags.extend(options.flags.iter().cloned());
    flags
}

/// A CA, a server certificate for `address` and 127.0.0.1, and the key that signs account tokens.
/// Gives the CA as PEM.
fn write_certificates(path: &Path, address: IpAddr) -> anyhow::Result<String> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name
        .push(DnType::CommonName, "pharos test CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate()?;
    let names = ["localhost", "kubernetes", "kubernetes.default.svc"];
    let mut server = CertificateParams::new(names.map(str::to_owned).to_vec())?;
    server
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    for ip in [address, IpAddr::V4(Ipv4Addr::LOCALHOST)] {
        server.subject_alt_names.push(SanType::IpAddress(ip));
    }
    let certificate = server.signed_by(&key, &issuer)?;
    std::fs::write(path.join("server.crt"), certificate.pem())?;
    std::fs::write(path.join("server.key"), key.serialize_pem())?;
    let accounts = KeyPair::generate()?;
    std::fs::write(path.join("accounts.key"), accounts.serialize_pem())?;
    std::fs::write(path.join("accounts.pub"), accounts.public_key_pem())?;
    std::fs::write(path.join("ca.crt"), ca_certificate.pem())?;
    Ok(ca_certificate.pem())
}

/// The token file of kube-apiserver, and a kubeconfig per user.
fn write_users(path: &Path, url: &str, ca: &str, users: &[User]) -> anyhow::Result<()> {
    let admin = User::new("admin", &["system:masters"]);
    let mut tokens = String::new();
    for user in std::iter::once(&admin).chain(users) {
        let token = random_token()?;
        let groups = user.groups.join(",");
        writeln!(tokens, "{token},{0},{0},\"{groups}\"", user.name)?;
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "pharos", "cluster": {
                "server": url,
                "certificate-authority-data": base64(ca.as_bytes()),
            }}],
            "users": [{"name": user.name, "user": {"token": token}}],
            "contexts": [{"name": "pharos", "context": {"cluster": "pharos", "user": user.name}}],
            "current-context": "pharos",
        });
        std::fs::write(
            kubeconfig_path(path, &user.name),
            serde_json::to_string_pretty(&config)?,
        )?;
    }
    std::fs::write(path.join("tokens.csv"), tokens)?;
    Ok(())
}

fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn kubeconfig_path(path: &Path, user: &str) -> PathBuf {
    path.join(format!("{}.kubeconfig", user.replace([':', '/'], "-")))
}

/// RFC 4648, with padding: all that a kubeconfig needs of it.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| chunk.get(index).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * place) & 63).expect("below 64");
            let padding = place > chunk.len();
            text.push(if padding {
                '='
            } else {
                char::from(ALPHABET[index])
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_follows_the_vectors_of_rfc_4648() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
