# Removal (R6, R97, R98, R113, D18): DROP EXTENSION in the middle of everything leaves the CRM's tables as they were, writes to
# them go on, nothing of ours is left in the database, what was handed over stays, nothing happens at Mailchimp; the extension
# can be created again. Who may hand over, and that nothing is forgotten: test/sql/hand_over.sql.

use strict;
use warnings;
use McCrm;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

# -----------------------------------------------------------------------------------------------------------------
# R6: a server that is too old is refused before anything is built
# -----------------------------------------------------------------------------------------------------------------

my $folder = PostgreSQL::Test::Utils::tempdir();
for my $case ([ 'PostgreSQL 13.9 (Debian 13.9-1)', 'PostgreSQL 13.9 (Debian 13.9-1)' ], [ '', 'none' ])
{
	my ($says, $shown) = @$case;
	open(my $script, '>', "$folder/pg_config") or die $!;
	print $script "#!/bin/sh\necho '$says'\n";
	close $script;
	chmod 0755, "$folder/pg_config";
	my $output = `make -C '$McTest::root' BUILD='$folder/build' PG_CONFIG='$folder/pg_config' all 2>&1`;
	isnt($?, 0, "R6: not built for a server that says '$says'");
	like($output, qr/mailchimp_sync needs PostgreSQL 14 or later; \S+ is of \Q$shown\E\./, 'R6: in words');
}

# -----------------------------------------------------------------------------------------------------------------
# Everything is used
# -----------------------------------------------------------------------------------------------------------------

my $crm = McCrm->start('main', candidates => 20, conf => "mailchimp_sync.databases = 'postgres'\n",
	demo => { lists => [ { name => 'Customers' }, { name => 'Leads' } ] });
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $people = 'SELECT md5(string_agg(c::text, chr(10) ORDER BY id)) FROM crm.candidate c';

# What the CRM's tables are: columns, privileges, constraints, indexes and triggers, ours (named mailchimp_sync...) apart.
sub tables
{
	return $node->query(<<~'SQL');
		SELECT string_agg(line, chr(10) ORDER BY line COLLATE "C") FROM (
			SELECT format('%s %s %s', c.oid::regclass, c.relkind, c.relacl) FROM pg_class c WHERE c.relnamespace = 'crm'::regnamespace
			UNION ALL SELECT format('%s.%s %s %s', a.attrelid::regclass, a.attname, a.atttypid::regtype, a.attacl) FROM pg_attribute a
				JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'crm'::regnamespace AND a.attnum > 0
			UNION ALL SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint WHERE connamespace = 'crm'::regnamespace
			UNION ALL SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
				WHERE c.relnamespace = 'crm'::regnamespace AND t.tgfoid::regproc::text !~ '^mailchimp_sync\.'
			UNION ALL SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'crm'::regnamespace) AS l(line)
		SQL
}

# What is in the database that an extension could leave behind.
sub leftovers
{
	return $node->query(<<~'SQL');
		SELECT coalesce(string_agg(line, ', ' ORDER BY line COLLATE "C"), '') FROM (
			SELECT format('schema %s', nspname) FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$|public$|crm$|archive$)'
			UNION ALL SELECT format('function %s', oid::regprocedure) FROM pg_proc WHERE pronamespace::regnamespace::text !~ '^(pg_.*|information_schema|crm)$'
			UNION ALL SELECT format('relation %s', oid::regclass) FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_.*|information_schema|crm|archive)$'
			UNION ALL SELECT format('type %s', oid::regtype) FROM pg_type WHERE typnamespace::regnamespace::text !~ '^(pg_.*|information_schema|crm|archive)$'
			UNION ALL SELECT format('trigger %s', tgname) FROM pg_trigger WHERE NOT tgisinternal AND tgname <> 'theirs'
			UNION ALL SELECT format('role %s', rolname) FROM pg_roles WHERE rolname !~ '^(pg_|ann$|max$|rita$)' AND oid <> 10
			UNION ALL SELECT format('server %s', srvname) FROM pg_foreign_server
			UNION ALL SELECT format('wrapper %s', fdwname) FROM pg_foreign_data_wrapper
			UNION ALL SELECT format('event trigger %s', evtname) FROM pg_event_trigger
			UNION ALL SELECT format('default privileges of %s', defaclrole::regrole) FROM pg_default_acl
			UNION ALL SELECT format('setting %s', unnest(setconfig)) FROM pg_db_role_setting
			UNION ALL SELECT format('large object %s', oid) FROM pg_largeobject_metadata
			UNION ALL SELECT format('extension %s', extname) FROM pg_extension WHERE extname <> 'plpgsql') AS l(line)
		SQL
}

# A partitioned table with row-level triggers that replication fires, a view with a watch, a trigger of the CRM's own, and a
# list whose members come into the CRM.
$crm->ann(<<~'SQL');
	CREATE TABLE crm.client (id bigint, region text, email text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
	CREATE TABLE crm.client_north PARTITION OF crm.client FOR VALUES IN ('north');
	CREATE TABLE crm.client_south PARTITION OF crm.client FOR VALUES IN ('south');
	INSERT INTO crm.client VALUES (1, 'north', 'n1@crm.test'), (2, 'south', 's2@crm.test');
	CREATE TABLE crm.log (at timestamptz DEFAULT now(), id bigint);
	CREATE FUNCTION crm.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO crm.log (id) VALUES (NEW.id); RETURN NEW; END $$;
	CREATE TRIGGER theirs AFTER UPDATE ON crm.candidate FOR EACH ROW EXECUTE FUNCTION crm.note();
	CREATE VIEW crm.contact AS SELECT id, email FROM crm.client;
	SELECT mc_add_source('client', 'crm.client', 'id', 'email');
	SELECT mc_alter_source('client', '{"triggers": "row", "replica": true}');
	SELECT mc_add_source('contact', 'crm.contact', 'id', 'email');
	SELECT mc_watch('contact', 'crm.client', 'SELECT c.id FROM changed c');
	SELECT mc_add_audience_source('people', 'client');
	CREATE TABLE crm.lead (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text UNIQUE, first_name text, status text, lead_source text);
	SELECT mc_add_source('lead', 'crm.lead', 'id', 'email');
	SELECT mc_create_audience('leads', 'main', 'Leads', 'lead', direction => 'pull');
	SELECT mc_set_inbound('leads', 'lead', '{"email": "email", "FNAME": "first_name", "status": "status"}', '{"lead_source": "MailChimp"}');
	SQL
$sim->post('/_sim/act', { list => $crm->{demo}{lists}[1]{id}, email => 'lea@crm.test', action => 'add', merge_fields => { FNAME => 'Lea' } });
$crm->max("SELECT mc_sync_audience('leads')");
$node->wait_until('SELECT EXISTS (SELECT FROM crm.lead)');
$crm->max("SELECT mc_sync_audience('people')");
$node->wait_until("SELECT in_sync = 22 FROM mc_audience_status WHERE audience = 'people'");
my $sent = $crm->max(q{SELECT mc_create_campaign('Sent', 'people', 'Newsletter', 'Max', 'max@example.org')});
my $planned = $crm->max(q{SELECT mc_create_campaign('Planned', 'people', 'Newsletter', 'Max', 'max@example.org')});
$crm->max("SELECT mc_add_recipients($sent, 'candidate', (SELECT array_agg(id) FROM generate_series(1, 20) id)),
	mc_add_recipients($planned, 'candidate', '{1,2}'); SELECT mc_send_campaign($sent); SELECT mc_schedule_campaign($planned, date_trunc('hour', now()) + interval '2 days')");
$node->wait_until("SELECT string_agg(status, ' ' ORDER BY status) = 'scheduled sent' FROM mc_campaign");
$crm->max("SELECT mc_opt_out('candidate', 3, 'no more')");
my $settled = "AND opted_out = 1 AND pending = 0 AND NOT EXISTS (SELECT FROM mailchimp_sync.event) FROM mc_audience_status WHERE audience = 'people'";
$node->wait_until("SELECT NOT EXISTS (SELECT FROM mailchimp_sync.opt_out WHERE carried_at IS NULL) AND in_sync = 21 $settled");

# A session whose triggers are known to it, one with a write that is not committed, mc_run that looks on, a request under way.
my $before = tables();
like($node->error('DROP EXTENSION mailchimp_sync'), qr/2BP01: .*\nDETAIL:  server main depends on/, 'a server with its key does not go by the way');
my ($writer, $open, $watcher) = map { $node->session(as => $_) } qw(ann ann max);
$writer->query("UPDATE crm.candidate SET first_name = 'Once' WHERE id = 1");
$writer->query('PREPARE change AS UPDATE crm.candidate SET last_name = $1 WHERE id = $2');
$writer->query("EXECUTE change('Twice', 1); INSERT INTO crm.client VALUES (3, 'south', 's3\@crm.test')");
$node->wait_until("SELECT in_sync = 22 $settled");
$sim->hold(method => 'POST', path => "^/lists/$list\$", when => 'before');
$crm->ann("UPDATE crm.owner SET name = 'Other' WHERE id = 1");
$sim->wait_held;
McTest::begin($watcher, 'CALL mc_run();');
$open->query("BEGIN; UPDATE crm.candidate SET first_name = 'Open' WHERE id = 2; DELETE FROM crm.client WHERE id = 1");

# -----------------------------------------------------------------------------------------------------------------
# Handed over, and dropped
# -----------------------------------------------------------------------------------------------------------------


$node->query('CREATE SCHEMA archive AUTHORIZATION ann');
my (undef, undef, $said) = $node->psql('postgres', "CREATE TABLE archive.told AS SELECT * FROM mc_hand_over('archive')", extra_params => [ '-U', 'ann' ]);
like($said, qr/WARNING:  not everything is synced yet\nDETAIL:  .*contacts that wait to be sent to Mailchimp: 10.*\nHINT:  What is to be kept has to be synced first/,
	'R113: what is not synced is told');
like($said, qr/WARNING:  campaigns that stay scheduled at Mailchimp: 1\n/, 'and what Mailchimp will send');
like($said, qr/NOTICE:  .*\n.*\nHINT:  DROP EXTENSION mailchimp_sync CASCADE cannot be undone\./, 'R98: and that there is no way back');
my $rows = $open->query($people);
my $worker = $node->worker;

my $dropper = $node->session;
McTest::begin($dropper, 'SET client_min_messages = error; DROP EXTENSION mailchimp_sync CASCADE;');
$node->wait_until("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE query LIKE '%DROP EXTENSION mailchimp_sync CASCADE;'");
pass('a write under way is waited for');
$open->query('COMMIT');
$dropper->query('');
is($dropper->{stderr}, '', 'dropped in the middle of everything');
$sim->release;
$node->wait_until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $worker)");
$watcher->query('');
like($watcher->{stderr}, qr/55000|extension "mailchimp_sync" was dropped/, 'mc_run says why it ends');
is($watcher->query('SELECT 1'), 1, 'and its session lives');
my ($last) = map { $_->{n} } (sort { $b->{n} <=> $a->{n} } $sim->journal)[0];

# -----------------------------------------------------------------------------------------------------------------
# Nothing of ours is left, everything of theirs is
# -----------------------------------------------------------------------------------------------------------------

sub is_clean
{
	my ($when) = @_;
	is(leftovers(), '', "$when: D18, R97: no function, relation, type, trigger, role or server of ours is left");
	is(tables(), $before, "$when: R98: the tables of the CRM are what they were");
}

# Every kind of write, in sessions that knew the triggers.
sub writes
{
	my ($when) = @_;
	$_->{stderr} = '' for $writer, $open;
	$writer->query("EXECUTE change('Thrice', 1); INSERT INTO crm.client VALUES (4, 'north', 'n4\@crm.test'); UPDATE crm.client SET region = 'south' WHERE id = 4");
	$open->query('BEGIN; TRUNCATE crm.client; ROLLBACK; DELETE FROM crm.client WHERE id = 4; DELETE FROM crm.candidate WHERE id = 20;
		INSERT INTO crm.candidate (id, email) VALUES (20, \'c20@crm.test\')');
	is($writer->{stderr} . $open->{stderr}, '', "$when: writes go on");
}

is_clean('dropped');
is($node->query($people), $rows, 'R98: and so are their rows');
is($node->query("SELECT first_name FROM crm.candidate WHERE id IN (1, 2) ORDER BY id"), "Once\nOpen", 'with what was just written');
is($node->query('SELECT email, first_name, status, lead_source FROM crm.lead'), 'lea@crm.test|Lea|subscribed|MailChimp', 'R98: who was imported stays');
writes('dropped');
is($node->query('SELECT id FROM crm.log ORDER BY at DESC, id LIMIT 1'), 1, 'their own triggers fire');
is(scalar(grep { $_->{n} > $last } $sim->journal), 0, 'D18: nothing is asked of Mailchimp any more');
is(join(' ', map { my $status = $_; $status . ' ' . grep { $_->{status} eq $status } values %{ { $crm->members } } } qw(subscribed unsubscribed)), 'subscribed 22 unsubscribed 1',
	'D18: nobody leaves there by it');

# What was handed over reads without us.
my $kept = sub { return $node->query($_[0], as => 'ann') };
is($kept->(q{SELECT string_agg(format('%s %s', substr(relation, 19), rows), ' ' ORDER BY relation) FROM archive.told
	WHERE relation ~ '_(campaign|recipient|member|report)$'}), 'campaign 2 list_member 24 member 24 recipient 22 report 1', 'handed over: how much');
is($kept->("SELECT string_agg(DISTINCT relation || ' ' || rows, ', ') FROM archive.told
	WHERE rows <> (xpath('/row/n/text()', query_to_xml('SELECT count(*) AS n FROM ' || relation, false, true, '')))[1]::text::bigint"), '', 'it is all there');
is($kept->('SELECT name, status, emails_sent FROM archive.mailchimp_campaign ORDER BY name'), "Planned|scheduled|\nSent|sent|20", 'campaigns');
is($kept->('SELECT source, contact_key, email, reason, added_by FROM archive.mailchimp_opt_out'), 'candidate|3|c3@crm.test|no more|max', 'who opted out');

# -----------------------------------------------------------------------------------------------------------------
# Again: who unsubscribed is known at Mailchimp
# -----------------------------------------------------------------------------------------------------------------

$node->query("CREATE EXTENSION mailchimp_sync; SELECT mc_grant('ann', 'admin'), mc_grant('max', 'marketer'), mc_grant('rita', 'reader');
	CREATE SERVER main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '" . $sim->url . "'); ALTER SERVER main OWNER TO ann");
$crm->ann("SELECT mc_connect('main', 'demo-us1')");
$crm->define;
$crm->ann("SELECT mc_create_audience('people', 'main', 'Customers', 'candidate', 'active')");
$crm->max("SELECT mc_sync_audience('people')");
$node->wait_until("SELECT in_sync = 19 AND contacts = 20 FROM mc_audience_status WHERE audience = 'people'");
is($crm->member('c3@crm.test')->{status}, 'unsubscribed', 'D10: nobody is subscribed again by coming back');
is($crm->member('c1@crm.test')->{merge_fields}{LNAME}, 'Thrice', 'what was written meanwhile arrives');
$writer->query("EXECUTE change('Again', 1)");
McTest::poll('a change of an old session', sub { $crm->member('c1@crm.test')->{merge_fields}{LNAME} eq 'Again' });
pass('a session that knew the triggers of before knows the new ones');
$crm->ann('SELECT mc_disconnect(connection) FROM mc_connection');
is($node->error('DROP EXTENSION mailchimp_sync'), '', 'without a connection DROP EXTENSION takes no CASCADE');
is_clean('dropped again');
writes('dropped again');
$_->quit for $writer, $open, $watcher, $dropper;
$node->query("DROP ROLE $_") for qw(max rita);
pass('roles have nothing of ours');
$node->stop;

done_testing();
