-- # The CRM
-- An ordinary recruitment CRM in schema crm, which knows nothing of Mailchimp:
-- candidates, the contacts of client companies, and the consultants who own them.

CREATE TABLE crm.owner (
    id     int PRIMARY KEY,
    name   text NOT NULL,
    email  text NOT NULL
);
CREATE TABLE crm.candidate (
    id         int PRIMARY KEY,
    initials   text NOT NULL,
    first_name text,
    prefix     text,
    last_name  text NOT NULL,
    email      text,
    status     text NOT NULL DEFAULT 'active',      -- active, placed
    sectors    text[] NOT NULL DEFAULT '{}',
    mailings   boolean NOT NULL DEFAULT true,       -- wants to receive mailings
    owner_id   int REFERENCES crm.owner
);
CREATE TABLE crm.contact (
    id         int PRIMARY KEY,
    first_name text NOT NULL,
    last_name  text NOT NULL,
    company    text NOT NULL,
    email      text,
    owner_id   int REFERENCES crm.owner
);
CREATE INDEX ON crm.candidate (owner_id);
CREATE INDEX ON crm.contact (owner_id);
