# A copy of a database sends nothing until it is told to (N14, design.md rule 10): dumps restored in one transaction or
# half-way, databases made from a template, files that were copied. What mc_resume() finds then is complete.

use strict;
use warnings;
use McPeople;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $key = 'secretsecretsecret-us1';

my $sim = McTest::Simulator->start;
my $demo = $sim->post('/_sim/demo', { key => $key });
my $conf = "mailchimp_sync.databases = 'one, custom, plain, half, clone'\n";
my $node = McTest::Node->start('main', extension => 0, conf => $conf);
$node->query('CREATE DATABASE one');
my $one = McPeople->new($node, $sim, db => 'one', key => $key);
$one->ann(q{SELECT mc_add_source('person', 'crm.person', 'id', 'email', '{"FNAME": "first_name", "CITY": "city"}', tags => 'ARRAY[city]')});
$one->sync;
$one->wait_in_step;
$one->ann(q{ALTER TABLE crm.person ADD mc_status text; SELECT mc_set_inbound('people', 'person', '{"status": "mc_status"}')});
$one->wait_until("SELECT bool_and(mc_status = 'subscribed') FROM crm.person");
$node->role('rita', level => 'reader', db => 'one');
$one->mia("SELECT mc_opt_out('person', 3, 'by telephone'); SELECT mc_create_campaign('News', 'people'); SELECT mc_target_audience(1);
	SELECT mc_remove_recipients(1, 'person', '{2}'); SELECT mc_set_signal('unsubscribed', false, 'crm')");
# one that people made, long ago
$sim->post('/_sim/act', { account => $demo->{account_id}, action => 'add_campaigns', campaigns => [ { title => 'Theirs', created => '2020-01-01T00:00:00+00:00' } ] });
$one->mia("SELECT mc_pull_campaigns('main')");
$one->wait_until("SELECT count(*) = 1 FROM mc_campaign WHERE origin = 'imported'");
$one->ann("SELECT mc_register_webhook('people', '" . $sim->url . "/_sim/clock')");		# which answers
$one->super("SELECT mailchimp_sync.signal_campaign('campaign_prepared', 1)");
$one->wait_until("SELECT count(*) = 1 FROM mc_contact_state WHERE state = 'opted_out'");
$one->super("INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, recorded_at, machine)
	SELECT 1, 'somebody', 'opened', now(), '', o, now(), o = 3 FROM generate_series(1, 3) o");

# Triggers that replication fires, on a partitioned table too
$one->ann("CREATE TABLE crm.visit (person_id integer, day date) PARTITION BY RANGE (day);
	CREATE TABLE crm.visit_2025 PARTITION OF crm.visit FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
	SELECT mc_watch('person', 'crm.visit', 'SELECT person_id FROM changed'); SELECT mc_alter_source('person', '{\"replica\": true}')");

sub last_request { my @all = $sim->journal; return @all ? $all[-1]{n} : 0 }

# The dumps are made while a change is under way.
$one->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.inflight)');
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$one->ann("UPDATE crm.person SET first_name = 'Held' WHERE id = 1");
$sim->wait_held;
$node->command_ok([ 'pg_dump', '-Fc', '-f', $node->basedir . '/one.dump', '-d', $node->connstr('one') ], 'pg_dump, custom');
$node->command_ok([ 'pg_dump', '-Fp', '-f', $node->basedir . '/one.sql', '-d', $node->connstr('one') ], 'pg_dump, plain');
is($one->super('SELECT count(*) FROM mailchimp_sync.inflight'), 1, 'a request is out');

# What a database has: its tables that a dump takes along, what is counted anew, and where their sequences stand.
sub contents
{
	my ($people) = @_;
	my $tables = $people->super("SELECT string_agg(format('SELECT %L, count(*), md5(string_agg(t::text, chr(10) ORDER BY t::text))
			FROM %s t', c.oid::regclass, c.oid::regclass), ' UNION ALL ' ORDER BY c.oid::regclass::text)
		FROM pg_extension e CROSS JOIN unnest(e.extconfig) x JOIN pg_class c ON c.oid = x
		WHERE e.extname = 'mailchimp_sync' AND c.relkind = 'r'");
	return $people->super("$tables ORDER BY 1; SELECT 'counted', c.* FROM mailchimp_sync.activity_count c");
}

sub sequences
{
	my ($people) = @_;
	my $sequences = $people->super("SELECT string_agg(format('SELECT %L, last_value, is_called FROM %s', c.oid::regclass, c.oid::regclass),
			' UNION ALL ' ORDER BY c.oid::regclass::text)
		FROM pg_extension e CROSS JOIN unnest(e.extconfig) x JOIN pg_class c ON c.oid = x
		WHERE e.extname = 'mailchimp_sync' AND c.relkind = 'S'");
	return $people->super("$sequences ORDER BY 1");
}

my ($contents, $sequences) = (contents($one), sequences($one));
$sim->release;
$one->wait_in_step;
like($contents, qr/^mailchimp_sync\.contact\|3\|/m, 'there is something to compare');
like($contents, qr/^mailchimp_sync\.opt_out\|1\|/m, 'also of the opt-out group');
like($contents, qr/^mailchimp_sync\.campaign\|2\|.*^mailchimp_sync\.import\|1\|/ms, 'and a campaign, and one that was imported');
like($contents, qr/^mailchimp_sync\.inbound\|1\|/m, 'and what comes in');
like($contents, qr/^mailchimp_sync\.tag\|1\|.*^mailchimp_sync\.webhook\|1\|/ms, 'and a tag, and a webhook with its secrets, which Mailchimp shows once');
like($contents, qr/^counted\|1\|3\|0\|0\|0\|0\|1\|0$/m, 'and activities, which are counted, machines\' too');
like($contents, qr/^mailchimp_sync\.signal\|1\|.*^mailchimp_sync\.signal_switch\|1\|/ms, 'N11: and signals, and who wants which');
like($contents, qr/^mailchimp_sync\.recipient_exclusion\|1\|.*^mailchimp_sync\.target\|1\|/ms, 'and what the campaign aims at, and at whom not');

# Identity columns whose sequences a dump does not take along would give the same number twice.
is($one->super("SELECT string_agg(d.refobjid::regclass::text, ' ' ORDER BY 1)
	FROM pg_extension e CROSS JOIN unnest(e.extconfig) x JOIN pg_depend d ON d.refobjid = x AND d.deptype = 'i' AND d.classid = 'pg_class'::regclass
	JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
	WHERE e.extname = 'mailchimp_sync' AND s.oid <> ALL (e.extconfig)"), '', 'every sequence of a dumped table is dumped as well');

# -----------------------------------------------------------------------------------------------------------------
# The copy
# -----------------------------------------------------------------------------------------------------------------

sub is_fenced
{
	my ($copy, $how) = @_;
	is($copy->ann('SELECT state, detail FROM mc_connection'), 'restored|this database is a copy of another one; mc_resume() lets it send', "$how: it knows that it is a copy");
	my $since = last_request();
	$copy->wait_worker;
	$copy->ann("UPDATE crm.person SET first_name = 'Copied' WHERE id = 2");
	$copy->sync;
	$copy->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.event)');
	like($copy->{node}->error("SELECT $_", db => $copy->{db}, as => 'ann'), qr/55000: nothing may be sent/, "$how: no call sends: $_")
		for "mc_refresh('main')", "mc_api('main', 'GET', '/ping')", "mc_register_webhook('people', 'https://copy.example.org/')";
	$copy->mia('CALL mc_run()');
	is(last_request(), $since, "$how: N14: neither worker nor mc_run nor anybody sends anything");
	is($copy->mia("SELECT value, ok FROM mc_status WHERE item = 'connection main'"), 'restored|f', "$how: mc_status says why nothing moves");
}

# One of them at a time writes to the list. (Whom one has archived the next does not bring back: it does not know why.)
my $new = 3;
sub goes_on
{
	my ($copy, $how) = @_;
	$new++;
	like($copy->{node}->error('SELECT mc_resume()', db => $copy->{db}, as => 'mia'), qr/42501/, "$how: takes an admin");
	my $compared = $copy->ann('SELECT compared_at FROM mc_audience');
	my $since = last_request();
	# as pg_restore --disable-triggers leaves them
	$copy->super('DELETE FROM mailchimp_sync.activity_count');
	$copy->ann('SELECT mc_resume()');
	is($copy->super('SELECT * FROM mailchimp_sync.activity_count'), '1|3|0|0|0|0|1|0', "$how: mc_resume() counts the activities");
	$copy->wait_until("SELECT compared_at > '$compared' FROM mc_audience");
	$copy->wait_in_step;
	pass("$how: after mc_resume() it compares in full and goes on");
	my ($first) = grep { m{/lists/\{list_id\}(/members)?$} } map { $_->{route} } $sim->journal(since => $since);
	is($first, 'GET /lists/{list_id}/members', "$how: and reads who has left before it sends anything");
	$copy->ann("UPDATE crm.person SET first_name = '$how', city = '$how' WHERE id = 1; INSERT INTO crm.person VALUES ($new, 'New', 'Delft', 'p$new\@crm.test')");
	$copy->wait_in_step;
	like($copy->names, qr/^1=\Q$how\E 2=Copied .*$new=New$/, "$how: and works as usual");
	$copy->wait_until("SELECT mc_status = 'subscribed' FROM crm.person WHERE id = $new");
	pass("$how: in both directions");
	is(join(' ', grep { /^(\Q$how\E|Utrecht)$/ } map { @{ $_->{tags} } } grep { $_->{email_address} eq 'p1@crm.test' } $copy->members),
		$how, "$how: a tag that the original has put on is taken away");
	is(scalar(grep { $_->{route} =~ /tag-search/ } $sim->journal(since => $since)), 0, "$how: by the segment that it knew");
	is($copy->mia("SELECT state FROM mc_contact_state WHERE contact_key = '3'"), 'opted_out', "$how: who opted out has opted out");
	cmp_ok($copy->mia("SELECT mc_create_campaign('Second', 'people')"), '>', 1, "$how: new numbers are new");
	$copy->ann("DELETE FROM crm.person WHERE id = $new");
	$copy->wait_in_step;
	$copy->ann('SELECT mc_stop_worker()');
}

sub same_as_before
{
	my ($copy, $how) = @_;
	is(contents($copy), $contents, "$how: nothing is lost");
	is(sequences($copy), $sequences, "$how: sequences stand where they stood");
	is($copy->super('SELECT count(*) FROM mailchimp_sync.inflight'), 0, "$how: nothing is under way");
	is($copy->super("SELECT tgrelid::regclass, count(*), count(*) FILTER (WHERE tgenabled = 'A'), count(d.objid)
		FROM pg_trigger t LEFT JOIN pg_depend d ON d.objid = t.oid AND d.deptype = 'x' WHERE t.tgname LIKE 'mailchimp_sync%' GROUP BY 1 ORDER BY 1::text"),
		"crm.person|4|4|4\ncrm.visit|4|4|4\ncrm.visit_2025|4|4|1", "$how: the triggers are there, and the extension's");
	my $triggers = "SELECT array_agg(oid || ':' || xmin ORDER BY oid) FROM pg_trigger WHERE tgname LIKE 'mailchimp_sync%'";
	my $before = $copy->super($triggers);
	$copy->super("SELECT mc_alter_source('person', '{}')");
	is($copy->super($triggers), $before, "$how: as they have to be");
	is($copy->ann('SELECT triggers, replica, state, detail FROM mc_source'), 'auto|t|ok|', "$how: and mc_source finds nothing wrong");
}

# The worker of the copy comes only when it has been looked at.
sub restore
{
	my ($where, $how, @command) = @_;
	my $copy = $one->at(node => $where, db => $how);
	$where->query("CREATE DATABASE $how");
	$where->command_ok(\@command, "$how: restored in one transaction");
	return $copy;
}

$one->ann('SELECT mc_stop_worker()');
McTest::poll('its end', sub { $one->workers eq '' });
my $custom = restore($node, 'custom', 'pg_restore', '-1', '-d', $node->connstr('custom'), $node->basedir . '/one.dump');
same_as_before($custom, 'custom');
is_fenced($custom, 'custom');
goes_on($custom, 'custom');

# Another cluster
my $other = McTest::Node->start('other', extension => 0, conf => $conf);
$other->query("CREATE ROLE $_ LOGIN") for qw(ann mia rita);
my $plain = restore($other, 'plain', 'psql', '-X', '-q', '-1', '-v', 'ON_ERROR_STOP=1', '-d', $other->connstr('plain'), '-f', $node->basedir . '/one.sql');
same_as_before($plain, 'plain');
is_fenced($plain, 'plain');
goes_on($plain, 'plain');

# Half-way, as a worker would see it of a restore that is not in one transaction: connections, contacts, no stamp yet.
my $list = $node->basedir . '/half.list';
my ($toc) = run_command([ 'pg_restore', '-l', $node->basedir . '/one.dump' ]);
like($toc, qr/TABLE DATA mailchimp_sync home/, 'the stamp is in the dump');
append_to_file($list, $toc =~ s/^.*TABLE DATA mailchimp_sync home.*\n//mr);
my $half = restore($node, 'half', 'pg_restore', '-1', '-L', $list, '-d', $node->connstr('half'), $node->basedir . '/one.dump');
is_fenced($half, 'half');
$half->ann('SELECT mc_stop_worker()');

# -----------------------------------------------------------------------------------------------------------------
# A template, and files
# -----------------------------------------------------------------------------------------------------------------

$node->query('CREATE DATABASE clone TEMPLATE one');
my $clone = $one->at(db => 'clone');
$clone->ann('SELECT mc_start_worker()');
is_fenced($clone, 'clone');
goes_on($clone, 'clone');

# ALTER DATABASE RENAME is no copy.
is($one->ann('SELECT state FROM mc_connection'), 'ok', 'the original is what it was');
$node->query('ALTER DATABASE one RENAME TO uno');
$one = $one->at(db => 'uno');
is($one->ann('SELECT state FROM mc_connection'), 'ok', 'under another name as well');

sub set
{
	my ($name, $value) = @_;
	$node->query("ALTER SYSTEM SET $name = $value");
	$node->query('SELECT pg_reload_conf()');
	$node->wait_until("SELECT current_setting('$name') = '" . ($value =~ s/'//gr) . "'", db => 'uno');
}
set('mailchimp_sync.databases', "'uno'");
set('mailchimp_sync.instance', "'another machine'");
$one->ann('SELECT mc_start_worker()');
is_fenced($one, 'files on another machine');
set('mailchimp_sync.instance', "''");
is($one->ann('SELECT state FROM mc_connection'), 'ok', 'and back');
$one->ann("UPDATE crm.person SET first_name = 'Back' WHERE id = 1");
$one->wait_in_step;

set('mailchimp_sync.send', 'off');
my $since = last_request();
$one->ann("UPDATE crm.person SET first_name = 'Unsent' WHERE id = 1");
$one->sync;
$one->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.event)');
$one->mia('CALL mc_run()');
is(last_request(), $since, 'send = off: nothing leaves');
is($one->mia("SELECT ok, detail FROM mc_status WHERE item = 'sending'"), 'f|nothing leaves: the setting mailchimp_sync.send is off', 'and mc_status says so');
set('mailchimp_sync.send', 'on');
$one->wait_in_step;
pass('on again: it arrives, without anybody asking');

# -----------------------------------------------------------------------------------------------------------------
# Dumps of an ordinary user (N12)
# -----------------------------------------------------------------------------------------------------------------

like(slurp_file($node->basedir . '/one.sql'), qr/\Q$key\E/, 'a superuser\'s dump has the key');
$one->super('GRANT USAGE ON SCHEMA crm TO rita; GRANT SELECT ON ALL TABLES IN SCHEMA crm TO rita');
for my $options ([], [ '-N', 'mailchimp_sync' ], [ '-n', 'crm' ])
{
	my ($out, $err) = run_command([ 'pg_dump', @$options, '-U', 'rita', '-d', $node->connstr('uno') ]);
	unlike("$out$err", qr/\Q$key\E/, "another one has not: pg_dump @$options");
}
my ($out) = run_command([ 'pg_dump', '-n', 'crm', '-U', 'rita', '-d', $node->connstr('uno') ]);
like($out, qr/^4?\t?1\tUnsent/m, '(which did dump)');

$_->stop for $node, $other;
done_testing();
