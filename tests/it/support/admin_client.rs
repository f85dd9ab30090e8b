//! Client of the AdminService of a process.

use std::path::Path;

use api::admin::admin_service_client::AdminServiceClient;
use testkit::eventually;
use tonic::transport::{Channel, Endpoint};

pub(crate) type Admin = AdminServiceClient<Channel>;

/// Connects to the socket in a data directory, which exists once the databases are migrated.
pub(crate) async fn connect(data_dir: &Path) -> Admin {
    let url = format!("unix:{}", data_dir.join("admin.sock").display());
    let endpoint = Endpoint::try_from(url).unwrap();
    let channel = eventually("the socket", async || endpoint.connect().await.ok()).await;
    AdminServiceClient::new(channel)
}
