//! Git repository with a small application, which the scenario deploys.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// HTTP server in Perl, which is installed wherever git is.
const SERVER: &str = r#"use IO::Socket::INET;
my $server = IO::Socket::INET->new(
    LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1,
) or die "cannot listen on $ENV{HOST}:$ENV{PORT}: $!";
$SIG{PIPE} = 'IGNORE';
while (my $client = $server->accept) {
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    print $client "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nshop\n";
    close $client;
}
"#;

/// Creates the repository with one commit on `main`; returns its path.
pub(super) fn create_repository(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("shop");
    fs::create_dir_all(&path)?;
    // If the suite runs as root, the runner reads the repository as another account.
    for readable in [directory, &path] {
        fs::set_permissions(readable, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(path.join("server.pl"), SERVER)?;
    fs::write(path.join("Procfile"), "web: perl server.pl\n")?;
    git(&path, &["init", "--quiet", "--initial-branch=main"])?;
    git(&path, &["add", "."])?;
    let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
    git(&path, &[&author[..], &["commit", "--quiet", "-m", "Serve the shop"]].concat())?;
    Ok(path)
}

fn git(directory: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("git").args(arguments).current_dir(directory).output();
    let output = output
        .context("git is not installed; install it, for example with `apt-get install git`")?;
    ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
