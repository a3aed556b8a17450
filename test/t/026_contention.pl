# Somebody keeps one of our tables locked in an open transaction (a backup tool, a session of the administrator): nothing
# is lost, sent twice or reported as a failure, a reply that came meanwhile is applied when the way is free, and nothing
# else waits for it (N17 the other way round).

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 3, conf => "mailchimp_sync.databases = 'postgres'\n");
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
$sim->wait_requests(2, since => 0, route => 'POST /lists/{list_id}');
$node->wait_until("SELECT in_sync = 3 FROM mc_audience_status");
is($crm->requests, 'POST /lists/{list_id} 200', 'the change is sent once the way is free');
unlike(substr(PostgreSQL::Test::Utils::slurp_file($node->logfile), $log), qr/WARNING/, 'without a word');
$blocker->quit;

done_testing();
