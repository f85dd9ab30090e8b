//! A small application in a git repository of its own, to be deployed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Perl is on every machine that has git.
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

/// Makes the repository, with one commit on `main`.
pub(super) fn repository(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("shop");
    fs::create_dir_all(&path)?;
    // The runner reads it as another account, if the suite runs as root.
    for it in [folder, &path] {
        fs::set_permissions(it, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(path.join("server.pl"), SERVER)?;
    fs::write(path.join("Procfile"), "web: perl server.pl\n")?;
    git(&path, &["init", "--quiet", "--initial-branch=main"])?;
    git(&path, &["add", "."])?;
    let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
    git(&path, &[&author[..], &["commit", "--quiet", "-m", "Serve the shop"]].concat())?;
    Ok(path)
}

fn git(folder: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("git").args(arguments).current_dir(folder).output();
    let output = output.context("git is not installed; `apt-get install git`")?;
    ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
