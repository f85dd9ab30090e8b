//! A git repository with a small program that can be deployed or broken.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// HTTP server in Perl, which git depends on: responds with `page.txt` and its own environment variables.
/// `/keep/<word>` stores a word in the data directory, and `/end` ends the server.
const SERVER: &str = r#"use IO::Socket::INET;
open(my $file, '<', 'page.txt') or die "no page: $!"; my $page = join '', <$file>;
my $server = IO::Socket::INET->new(
    LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1,
) or die "cannot listen on $ENV{HOST}:$ENV{PORT}: $!";
$SIG{PIPE} = 'IGNORE';
while (my $client = $server->accept) {
    my $first = <$client> // '';
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    my $kept = '';
    if ($first =~ m{^GET /keep/(\w+)}) { open(my $out, '>>',
        "$ENV{DATA_DIR}/kept"); print $out "$1\n"; close $out }
    if (open(my $in, '<', "$ENV{DATA_DIR}/kept")) { $kept = join ' ', map { chomp; $_ } <$in> }
    my $body = $page . "kept: $kept\nname: $ENV{ENVIRONMENT_NAME}\nmodules: " . ($ENV{MODULES} // '') . "\n"
        . "db: " . ($ENV{DATABASE_URL} // '') . "\n"
        . "secret: " . ($ENV{SECRET} // '') . "\nuid: $>\n";
    my $length = length($body);
    print $client "HTTP/1.1 200 OK\r\nContent-Length: $length\r\nConnection: close\r\n\r\n$body";
    close $client;
    exit 7 if $first =~ m{^GET /end};
}
"#;

/// Manifest of the program. The build prints a line and fails if `page.txt` is missing.
const MANIFEST: &str = r#"[build]
command = "echo building; test -f page.txt || { echo there is no page; exit 3; }"
[run]
command = "perl server.pl"
"#;

/// A repository in a temporary folder.
pub struct Repository {
    folder: TempDir,
}

impl Repository {
    /// Creates a repository with one commit on `main` that serves `page`.
    pub fn new(page: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        // If the tests run as root, the runner reads it as another account.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
            .expect("the mode of the directory can be set");
        let repository = Self { folder };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.write("server.pl", SERVER);
        repository.write("tenantry.toml", MANIFEST);
        repository.commit(page);
        repository
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// URL of the repository for a project: its path.
    pub fn url(&self) -> String {
        self.path().to_string_lossy().into_owned()
    }

    /// Writes a file without a commit.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("the file can be written");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Commits a new page; returns the commit id. An empty page breaks the build.
    pub fn commit(&self, page: &str) -> String {
        let file = self.file("page.txt");
        if page.is_empty() {
            fs::remove_file(file).expect("there is a page");
        } else {
            fs::write(file, format!("{page}\n")).expect("the page can be written");
        }
        self.git(&["add", "--all"]);
        let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
        let message = ["commit", "--quiet", "--allow-empty", "-m", "Change the page"];
        self.git(&[&author[..], &message].concat());
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// Runs git in the folder; returns its output.
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git").args(arguments).current_dir(self.path()).output();
        let output = output.expect("git is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
