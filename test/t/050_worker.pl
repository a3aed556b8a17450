# The launcher and its workers, started and stopped from SQL; waking up at commit; the worker beside mc_run (N1, N15;
# design.md "Operating", rules 2 and 9).

use strict;
use warnings;
use McPeople;
use McTest;
use Test::More;
use Time::HiRes qw(time);

my $sim = McTest::Simulator->start;
$sim->post('/_sim/demo', { lists => [ { name => 'One' }, { name => 'Two' } ] });

# Passes if it happens in so many seconds, far less than the minute after which everything would be found anyway.
sub within
{
	my ($seconds, $what, $function) = @_;
	my $start = time;
	McTest::poll($what, $function);
	cmp_ok(time - $start, '<', $seconds, $what);
}

sub status { return $_[0]->mia("SELECT ok, value, detail FROM mc_status WHERE item = 'worker'") }

sub last_request { my @all = $sim->journal; return @all ? $all[-1]{n} : 0 }

sub set
{
	my ($node, $name, $value) = @_;
	$node->query("ALTER SYSTEM SET $name = $value");
	$node->query('SELECT pg_reload_conf()');
}

# -----------------------------------------------------------------------------------------------------------------
# Preloaded: the launcher follows mailchimp_sync.databases
# -----------------------------------------------------------------------------------------------------------------

my $node = McTest::Node->start('main', extension => 0, conf => "mailchimp_sync.databases = 'one, two'\n");
$node->query("CREATE DATABASE $_") for qw(one two);

my %crm;
within(10, 'an extension that is created later is found at once', sub {
	$crm{one} //= McPeople->new($node, $sim, db => 'one', list => 'One');
	$crm{one}->workers ne '';
});
$crm{two} = McPeople->new($node, $sim, db => 'two', list => 'Two');
my $one = $crm{one};
my $two = $crm{two};
within(10, 'in the second database, too', sub { $two->workers ne '' });
my $pid = $one->wait_worker;
is(status($one), "t|running|process $pid", 'mc_status shows it');
is($one->workers, $pid, 'it is the only one');

# Idle, it has no transaction and holds nothing.
is($sim->journal(route => 'POST /lists/{list_id}'), 0, 'D21: nothing is sent before mc_sync_audience');
$node->wait_until("SELECT state = 'idle' AND xact_start IS NULL AND backend_xmin IS NULL AND backend_xid IS NULL
	FROM pg_stat_activity WHERE pid = $pid");
McTest::poll('the locks of an idle worker', sub {
	$node->query("SELECT locktype, objsubid, mode FROM pg_locks WHERE pid = $pid") eq 'object|1|ExclusiveLock' });
pass('idle, it holds only the lock that makes it single');

# -----------------------------------------------------------------------------------------------------------------
# Waking up at commit (N1), though the fallback is a minute
# -----------------------------------------------------------------------------------------------------------------

$one->sync;
within(10, 'what mc_sync_audience asks is done at once', sub { $one->in_step });
$one->wait_in_step;
within(5, 'a commit of the CRM arrives at once', sub {
	$one->ann("UPDATE crm.person SET first_name = 'Eve' WHERE id = 2") if $one->names !~ /Eve/ && !$one->{changed}++;
	$one->names eq '1=Name1 2=Eve 3=Name3';
});
$one->wait_in_step;

sub last_woken { return $node->query("SELECT xact_start, state_change FROM pg_stat_activity WHERE pid = $pid") }
$node->wait_until("SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid");
my ($woken, $since) = (last_woken(), last_request());
$one->ann("BEGIN; UPDATE crm.person SET first_name = 'Nobody' WHERE id = 2; ROLLBACK");
$one->ann("BEGIN; UPDATE crm.person SET first_name = 'Nobody' WHERE id = 2; PREPARE TRANSACTION 'later'; ROLLBACK PREPARED 'later'");
$one->super('SELECT 1') for 1 .. 5;
is(last_woken(), $woken, 'ROLLBACK wakes nobody');
is(last_request(), $since, 'and sends nothing');

# -----------------------------------------------------------------------------------------------------------------
# The list of databases follows a reload
# -----------------------------------------------------------------------------------------------------------------

set($node, 'mailchimp_sync.databases', "'one'");
within(10, 'taken from the list, it ends', sub { $two->workers eq '' });
is($one->workers, $pid, 'the other one goes on');
like(status($two), qr/^f\|not running\|.*mc_start_worker/, 'mc_status says what can be done');
set($node, 'mailchimp_sync.databases', "'two, one, nowhere'");
within(10, 'put in it, it starts', sub { $two->workers ne '' });
is($one->workers, $pid, 'the other one has gone on');

# -----------------------------------------------------------------------------------------------------------------
# Killed, it comes back
# -----------------------------------------------------------------------------------------------------------------

$node->query("SELECT pg_terminate_backend($pid)");
within(10, 'a worker that was terminated comes back', sub { ($pid = $one->wait_worker($pid)) ne '' });
$one->ann("UPDATE crm.person SET first_name = 'Kim' WHERE id = 3");
within(5, 'and works', sub { $one->in_step });

# -----------------------------------------------------------------------------------------------------------------
# Stopping and starting from SQL
# -----------------------------------------------------------------------------------------------------------------

like($node->error('SELECT mc_stop_worker()', db => 'one', as => 'mia'), qr/42501: permission denied/, 'takes an admin');
$one->ann('BEGIN; SELECT mc_stop_worker(); ROLLBACK');
$one->ann('BEGIN; SAVEPOINT s; SELECT mc_stop_worker(); ROLLBACK TO s; COMMIT');
$one->ann("UPDATE crm.person SET first_name = 'Lou' WHERE id = 3");
within(5, 'it works on', sub { $one->in_step });
is($one->wait_worker, $pid, 'a stop that is rolled back does nothing');

$one->ann('BEGIN; SELECT mc_stop_worker(); SAVEPOINT s; SELECT mc_start_worker(); ROLLBACK TO s; COMMIT');
within(5, 'stopped, with a start that is rolled back', sub { $one->workers eq '' });
is(status($one), 'f|not running|stopped by mc_stop_worker; SELECT mc_start_worker() starts it', 'mc_status says so');
my $two_pid = $two->wait_worker;
set($node, 'mailchimp_sync.databases', "'one, two'");
$node->restart;
$two->wait_worker($two_pid);
$since = last_request();
$one->ann("UPDATE crm.person SET first_name = 'Max' WHERE id = 3");
is($one->engine, '', 'a stop outlasts a restart of the server');
$one->ann('SELECT mc_stop_worker()');
is(last_request(), $since, 'nothing is sent');
$one->ann('BEGIN; SELECT mc_start_worker(); ROLLBACK');
is($one->super('SELECT count(*) FROM mailchimp_sync.worker'), 1, 'a start that is rolled back does nothing');
$one->ann('SELECT mc_start_worker()');
within(5, 'started, it does what was left', sub { $one->in_step });
$pid = $one->wait_worker;

$one->ann('SELECT mc_stop_worker()');
$one->ann('SELECT mc_start_worker()');
within(5, 'stopped and started at once', sub { ($pid = $one->wait_worker($pid)) ne '' });
$one->ann('SELECT mc_start_worker()') for 1 .. 3;
$one->wait_in_step;
is($one->workers, $pid, 'starting what runs does nothing');

# -----------------------------------------------------------------------------------------------------------------
# Beside mc_run (N15)
# -----------------------------------------------------------------------------------------------------------------

sub settle
{
	$one->wait_in_step;
	$node->wait_until("SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid");
}

# The worker works, mc_run watches.
settle();
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$one->ann("UPDATE crm.person SET first_name = 'Ned' WHERE id = 1");
$sim->wait_held;
my $session = $node->session(db => 'one', as => 'mia');
my $run = $session->query('SELECT pg_backend_pid()');
McTest::begin($session, 'CALL mc_run();');
$node->wait_until("SELECT query = 'CALL mc_run();' AND state = 'active' AND wait_event = 'Extension' FROM pg_stat_activity WHERE pid = $run");
is($one->engine, $pid, 'the worker works, mc_run watches');
is($node->query("SELECT count(*) FROM pg_locks WHERE pid = $run AND locktype = 'relation'"), 0, 'it holds nothing');
$sim->release;
$session->query('');
is($one->names, '1=Ned 2=Eve 3=Max', 'mc_run returns when the worker is done');
like($session->{stderr}, qr/NOTICE:  audience "people": 3 of 3 contacts are at Mailchimp/, 'and has shown how far it is');
$session->{stderr} = '';
is($session->query('CALL mc_run()'), '', 'with nothing to do it returns at once');

# mc_run works, the worker waits, and takes over when it ends.
$one->ann('SELECT mc_stop_worker()');
McTest::poll('the worker is gone', sub { $one->workers eq '' });
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$one->ann("UPDATE crm.person SET first_name = 'Olga' WHERE id = 1");
McTest::begin($session, 'CALL mc_run();');
$sim->wait_held;
is($one->engine, $run, 'mc_run works');
like(status($one), qr/^t\|mc_run is running\|process $run/, 'mc_status says so');
$one->ann('SELECT mc_start_worker()');
within(10, 'the worker waits', sub { $one->workers ne '' });
$pid = $one->workers;
my $second = $node->session(db => 'one', as => 'mia');
McTest::begin($second, 'CALL mc_run();');
$node->wait_until("SELECT count(*) = 2 FROM pg_stat_activity WHERE query = 'CALL mc_run();' AND state = 'active' AND wait_event = 'Extension'");
is($one->engine, $run, 'a second mc_run waits, too');
is(scalar(grep { !defined $_->{ended} } $sim->journal), 1, 'one request only');
$sim->release;
$session->query('');
$second->query('');
is($one->names, '1=Olga 2=Eve 3=Max', 'done');
within(5, 'the worker takes over', sub { $one->engine eq $pid });
$one->ann("UPDATE crm.person SET first_name = 'Pia' WHERE id = 1");
within(5, 'and works', sub { $one->in_step });

# mc_run ends when it is cancelled, and leaves neither the lock nor slots behind.
$one->ann('SELECT mc_stop_worker()');
McTest::poll('the worker is gone', sub { $one->workers eq '' });
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$one->ann("UPDATE crm.person SET first_name = 'Quinn' WHERE id = 1");
McTest::begin($session, 'CALL mc_run();');
$sim->wait_held;
$node->query("SELECT pg_cancel_backend($run)");
$session->{stderr} = '';
$session->query('');
like($session->{stderr}, qr/canceling statement due to user request/, 'mc_run can be cancelled');
is($node->query("SELECT count(*) FROM pg_locks WHERE pid = $run AND pid <> pg_backend_pid()"), 0, 'it leaves no lock');
is($one->super("SELECT count(*) FROM mailchimp_sync.slot() WHERE pid = $run"), 0, 'and no slot');
is($session->query('SELECT current_user, current_setting($$search_path$$)'), 'mia|"$user", public', 'and is who it was');
$sim->release;
is($session->query('CALL mc_run()'), '', 'once more');
is($one->names, '1=Quinn 2=Eve 3=Max', 'arrives');

# From a procedure or a block of one's own, as long as that may commit
$one->ann("UPDATE crm.person SET first_name = 'Ruth' WHERE id = 1");
is($session->query('DO $$BEGIN CALL mc_run(); END$$'), '', 'in a block');
is($one->names, '1=Ruth 2=Eve 3=Max', 'it works as well');

# What time it is after a request is the time after the request: rests would end too early otherwise.
$sim->post('/_sim/latency', { request_ms => 1000 });
$sim->fault(method => 'POST', path => '^/lists/[^/]+$', fault => { type => 'status', status => 500, json => \1 });
$one->ann("UPDATE crm.person SET first_name = 'Sara' WHERE id = 1");
$session->query('CALL mc_run()');
$sim->post('/_sim/latency', { request_ms => 0 });
is($one->names, '1=Sara 2=Eve 3=Max', 'after an error it tries again');
is($one->mia("SELECT string_agg(status::text, ' ' ORDER BY started_at), max(started_at + duration) - interval '100 ms' <= (SELECT checked_at FROM mc_connection)
	FROM mc_request WHERE started_at > (SELECT max(started_at) FROM mc_request) - interval '5 s' AND duration >= interval '1 s'"), '500 200|t',
	'the clock has gone on meanwhile');

# A place where it cannot commit: an error, and nothing happens.
for my $sql ('BEGIN; CALL mc_run()', 'DO $$BEGIN PERFORM 1; EXECUTE $q$CALL mc_run()$q$; EXCEPTION WHEN division_by_zero THEN NULL; END$$')
{
	like($node->error($sql, db => 'one', as => 'mia'), qr/2D000: mc_run cannot be executed within a transaction\nHINT/, "not in $sql");
}
like($node->error('CALL mc_run()', db => 'one', as => $node->role('rob')), qr/42501: permission denied/, 'and not by anybody');
is($session->query("SET default_transaction_isolation = 'serializable'; CALL mc_run()"), "", 'whatever the isolation level of the session');
$_->quit for $session, $second;

# -----------------------------------------------------------------------------------------------------------------
# Dropped, and created again
# -----------------------------------------------------------------------------------------------------------------

$one->ann('SELECT mc_start_worker()');
$pid = $one->wait_worker;
$one->wait_in_step;
$one->super('DROP EXTENSION mailchimp_sync CASCADE; DROP SCHEMA crm CASCADE');
$sim->post('/_sim/reset');
$sim->post('/_sim/demo', { lists => [ { name => 'One' }, { name => 'Two' } ] });
$one = McPeople->new($node, $sim, db => 'one', list => 'One');
$one->sync;
within(10, 'dropped and created again, it goes on', sub { $one->in_step });
isnt($one->wait_worker, $pid, 'as another process');

# Settings of the database do not reach it. They would reach us as well, so we look from another one.
$node->query("ALTER DATABASE one SET $_") for "search_path = 'crm'", "role = 'rob'", "statement_timeout = '1ms'", "lock_timeout = '1ms'",
	"default_transaction_isolation = 'serializable'", 'default_transaction_read_only = on', 'default_transaction_deferrable = on',
	"session_replication_role = 'replica'";
$pid = $one->workers;
$node->query("SELECT pg_terminate_backend($pid)");
McTest::poll('the next worker', sub { my $next = $one->workers; $next ne '' && $next ne $pid && ($pid = $next) });
$node->wait_until("SELECT state = 'idle' AND wait_event = 'Extension' FROM pg_stat_activity WHERE pid = $pid");
$node->query('ALTER DATABASE one RESET ALL');
$one->ann("UPDATE crm.person SET first_name = 'Sam' WHERE id = 1");
within(5, 'a worker that started under other settings of the database works', sub { $one->in_step });
is($one->workers, $pid, 'it was that one');

# DROP DATABASE takes what it takes for any session; what is left does no harm.
like($node->error('DROP DATABASE two'), qr/55006: .*is being accessed by other users/, 'DROP DATABASE: the worker is a session');
$two->ann('SELECT mc_stop_worker()');
is($node->error('DROP DATABASE two'), '', 'mc_stop_worker makes way');
is($node->error('DROP DATABASE one WITH (FORCE)'), '', 'FORCE as well');
$node->stop;

# -----------------------------------------------------------------------------------------------------------------
# Without preload
# -----------------------------------------------------------------------------------------------------------------

$sim->post('/_sim/reset');
$sim->post('/_sim/demo', { lists => [ { name => 'One' }, { name => 'Two' } ] });
my $plain = McTest::Node->start('plain', conf => "shared_preload_libraries = ''\nlog_min_messages = debug1\n");
$plain->query('CREATE DATABASE one');
$one = McPeople->new($plain, $sim, db => 'one', list => 'One');
is($one->workers, '', 'not preloaded, nothing starts by itself');
$one->ann('SELECT mc_start_worker()');
$pid = $one->wait_worker;
is(status($one), "t|running|process $pid; it lasts until the server stops: mailchimp_sync is not in shared_preload_libraries",
	'a start lasts until the server stops, and mc_status says so');
$one->sync;
within(10, 'it works', sub { $one->in_step });
$one->ann("UPDATE crm.person SET first_name = 'Rita' WHERE id = 1");
within(5, 'it is woken at commit', sub { $one->in_step });
$plain->query("SELECT pg_terminate_backend($pid)");
within(15, 'terminated, it comes back', sub { ($pid = $one->wait_worker($pid)) ne '' });
$one->ann('SELECT mc_start_worker()');
McTest::poll('a second worker', sub { $one->workers =~ /\n/ });
within(15, 'a second worker goes, for it is not needed', sub { $one->workers eq $pid });
$one->ann('SELECT mc_stop_worker()');
within(5, 'stopped', sub { $one->workers eq '' });
$one->ann('SELECT mc_start_worker()');
within(5, 'started', sub { ($pid = $one->wait_worker) ne '' });

my $end = $plain->log_end;
$plain->query('DROP DATABASE one WITH (FORCE)');
within(30, 'a database that is gone takes its worker along', sub {
	$plain->wait_log(qr/unregistering background worker "mailchimp_sync worker of one"/, $end) });
$plain->query('CREATE DATABASE one');
$one = McPeople->new($plain, $sim, db => 'one', list => 'One');
is($one->workers, '', 'a database that is made anew has none');
$plain->stop;

done_testing();
