-- Access token of the repository, sealed for the project and the host of its URL.
alter table project add column repository_token bytea;
-- Projects with a credential in their URL, which an older version has stored. A background job moves the
-- credentials into sealed tokens.
create index project_url_credential on project (id)
    where repository_url ~ '^https?://[^/?#]*@|^ssh://[^/?#]*:[^/?#]*@|^[a-z]+://.*[?#]';

-- Event that requested the task: the parent of the events about its end. Null: requested by an older version.
alter table task add column request_event_id uuid;
