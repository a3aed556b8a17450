# Somebody keeps one of our tables locked in an open transaction (a backup tool, a session of the administrator): nothing
# is lost, sent twice or reported as a failure, a reply that came meanwhile is applied when the way is free, and nothing
# else waits for it (N17 the other way round).

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $fields = [ { tag => 'FNAME' }, { tag => 'LNAME' }, { tag => 'OWNERNAME' } ];
my $crm = McCrm->start('main', candidates => 3, conf => "mailchimp_sync.databases = 'postgres'\n",
	demo => { lists => [ map +{ name => $_, merge_fields => $fields }, 'Customers', 'Second' ] });
my ($node, $sim) = @$crm{qw(node sim)};

# The worker waits for a lock, gives up, and waits again: it has met the lock and goes on.
sub wait_attempts
{
	my $waiting = "SELECT min(l.waitstart) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE a.backend_type = 'mailchimp_sync worker' AND NOT l.granted";
	my $first = McTest::poll('the worker to wait for a lock', sub { $node->query($waiting) });
	McTest::poll('the worker to wait again', sub { my $again = $node->query($waiting); $again ne '' && $again ne $first });
}

$crm->max("SELECT mc_sync_audience('people')");
$node->wait_until("SELECT in_sync = 3 FROM mc_audience_status");
$crm->requests;

# A reply that cannot be applied for a while
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'after');
$crm->ann("UPDATE crm.candidate SET first_name = 'Fay' WHERE id = 1");
$sim->wait_held;
my $blocker = $node->session;
$blocker->query('BEGIN; LOCK TABLE mailchimp_sync.member IN SHARE MODE');
my $log = $node->log_end;
$sim->release;
wait_attempts();
is($node->query('SELECT count(*) FROM mailchimp_sync.inflight WHERE doubt_at IS NULL'), 1, 'the request stays under way');
is($node->query("SELECT state FROM mc_connection"), 'ok', 'the connection is as it was');
$blocker->query('COMMIT');
$node->wait_until("SELECT in_sync = 3 FROM mc_audience_status");
is($node->query("SELECT merge_fields ->> 'FNAME' FROM mc_member WHERE contact_key = '1'"), 'Fay', 'the reply is applied then');
is($crm->requests, 'POST /lists/{list_id} 200', 'and nothing was sent twice');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'nor noted as a failure');
unlike(substr(PostgreSQL::Test::Utils::slurp_file($node->logfile), $log), qr/WARNING/, 'nor warned of');

# Evaluation and claims that cannot go on
$blocker->query('BEGIN; LOCK TABLE mailchimp_sync.contact IN SHARE MODE');
$log = $node->log_end;
$crm->ann("UPDATE crm.candidate SET first_name = 'Flo' WHERE id = 2");
pass('the CRM does not wait');
wait_attempts();
$blocker->query('COMMIT');
# the third after those of the first sync and of Fay
$sim->wait_requests(3, since => 0, route => 'POST /lists/{list_id}');
$node->wait_until("SELECT in_sync = 3 FROM mc_audience_status");
is($crm->requests, 'POST /lists/{list_id} 200', 'the change is sent once the way is free');
unlike(substr(PostgreSQL::Test::Utils::slurp_file($node->logfile), $log), qr/WARNING/, 'without a word');

# A table that somebody has for themselves (VACUUM FULL), and that the work does not need
$blocker->query('BEGIN; LOCK TABLE mailchimp_sync.activity');
$log = $node->log_end;
$crm->ann("UPDATE crm.candidate SET first_name = 'Fox' WHERE id = 2");
$node->wait_until("SELECT merge_fields ->> 'FNAME' = 'Fox' FROM mc_member WHERE contact_key = '2'");
$node->query('CALL mc_run()');
$blocker->query('COMMIT');
unlike(substr(PostgreSQL::Test::Utils::slurp_file($node->logfile), $log), qr/ERROR|WARNING/, 'who keeps the activities locked halts nothing else');
$crm->requests;

# One source that cannot go on, and one audience: the others can
$crm->ann("CREATE TABLE crm.person (id bigint PRIMARY KEY, email text, stop boolean DEFAULT false);
	INSERT INTO crm.person SELECT g, 'p' || g || '\@crm.test' FROM generate_series(1, 2) g;
	SELECT mc_add_source('person', 'crm.person', 'id', 'email', opt_out => 'stop');
	SELECT mc_create_audience('second', 'main', 'Second', 'person')");
$crm->max("SELECT mc_sync_audience('second')");
$node->wait_until("SELECT sum(in_sync) = 5 FROM mc_audience_status");
$blocker->query(q{BEGIN; SELECT mc_opt_out('person', 1)});
$crm->ann('UPDATE crm.person SET stop = true WHERE id = 1');
$crm->ann("UPDATE crm.candidate SET first_name = 'Gil' WHERE id = 3");
$node->wait_until("SELECT merge_fields ->> 'FNAME' = 'Gil' FROM mc_member WHERE email = 'c3\@crm.test'");
is($crm->rita("SELECT state FROM mc_contact_state WHERE source = 'person' AND contact_key = '1'"), 'in_sync', 'N17: a source whose contact somebody is opting out just now waits alone');
$blocker->query('ROLLBACK');
$node->wait_until("SELECT state = 'opted_out' FROM mc_contact_state WHERE source = 'person' AND contact_key = '1'");

$blocker->query(q{BEGIN; SELECT mc_alter_audience('people', '{"every": "2 days"}')});
my $asked = $node->query('SELECT mailchimp_sync.clock()');
$crm->later(25 * 3600);
$node->wait_until("SELECT compared_at > '$asked' FROM mc_audience WHERE audience = 'second'");
is($node->query("SELECT compared_at > '$asked' FROM mc_audience WHERE audience = 'people'"), 'f', 'so does an audience that somebody is changing');
$blocker->query('ROLLBACK');
$node->wait_until("SELECT compared_at > '$asked' FROM mc_audience WHERE audience = 'people'");
# An event commits while those around it are looked at: its number lies between theirs, and it is none of those that are done
$crm->ann(q{ALTER TABLE crm.person ADD name text;
	INSERT INTO crm.person (id, email, name) SELECT g, 'n' || g || '@crm.test', 'old' FROM generate_series(11, 13) g;
	CREATE FUNCTION crm.waits(name text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN name; END';
	SELECT mc_add_source('person', 'crm.person', 'id', 'email', '{"FNAME": "crm.waits(name)"}', opt_out => 'stop')});
my $named = "SELECT count(*) = 3 FROM mc_member WHERE merge_fields ->> 'FNAME'";
$node->wait_until("$named = 'old'");
my ($before, $between, $after) = map { $node->session(as => 'ann') } 1 .. 3;
my $id = 10;
$_->query('BEGIN; UPDATE crm.person SET name = \'new\' WHERE id = ' . ++$id) for $before, $between, $after;
$blocker->query('SELECT pg_advisory_lock(77)');
$_->query('COMMIT') for $before, $after;
wait_attempts();
$between->query('COMMIT');
$blocker->query('SELECT pg_advisory_unlock(77)');
$node->wait_until("$named = 'new'");
pass('N5: a change that commits while others are looked at is not done with them');
$_->quit for $before, $between, $after, $blocker;

done_testing();
