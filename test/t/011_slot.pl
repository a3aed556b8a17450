# Slots and engines in shared memory (rule 1: never more requests of one user than allowed, over the whole server;
# rule 2: engines are woken at commit), with and without preload.

use strict;
use warnings;
use McTest;
use McUnit;
use Test::More;

for my $preload (0, 1)
{
	my $node = McUnit::node($preload ? 'preloaded' : 'plain', preload => $preload);
	my $session = $node->session;
	my $is = sub { is($session->query($_[0]), $_[1], "$_[2] (preload $preload)") };
	my $wait = sub {
		McTest::begin($_[0], 'SELECT unit_wait();');
		$node->wait_until("SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT unit_wait%' AND wait_event = 'Extension'");
	};
	my $database = $node->query('SELECT oid FROM pg_database WHERE datname = current_database()');

	# Limits
	$is->("SELECT unit_take('u', 3), unit_take('u', 3), unit_take('u', 3, true), unit_take('u', 3), unit_take('u', 3)",
		'0|1|-1|2|-1', 'at most 3, and 2 for bulk work');
	$is->("SELECT unit_take('v', 1, true), unit_take('v', 1, true)", '3|-1', 'bulk work may have the only one');
	$is->('SELECT slot_user, count(*), bool_and(pid = pg_backend_pid() AND expires IS NULL) FROM mailchimp_sync.slot() GROUP BY 1 ORDER BY 1',
		"u|3|t\nv|1|t", 'they are shown');

	# Ghosts
	$is->("SELECT unit_haunt(1, 130); SELECT unit_take('u', 3)", "\n-1", 'a haunted slot stays taken');
	$is->("SELECT unit_ghost('w', 60); SELECT count(*) FROM mailchimp_sync.slot() WHERE slot_user = 'w' AND pid IS NULL", "\n1", 'a ghost of an earlier engine');
	$is->("SELECT unit_clock(131); SELECT unit_take('u', 3)", "\n1", 'they end by our clock');
	$is->('SELECT count(*) FROM mailchimp_sync.slot()', 4, 'and are shown no more');
	$is->('SELECT unit_clock(0)', '', 'back');

	# Waiting for a slot
	my $waiting = $node->session;
	is($waiting->query("SELECT unit_take('v', 1)"), -1, 'none for another session');
	$wait->($waiting);
	$session->query('SELECT unit_release(3)');
	$waiting->query('');
	is($waiting->query("SELECT unit_take('v', 1)"), 3, 'it is woken when one comes free');
	is($session->query("SELECT unit_take('v', 1)"), -1, 'now that is the only one');
	$wait->($session);
	$node->query("SELECT pg_terminate_backend(pid) FROM mailchimp_sync.slot() WHERE slot_user = 'v'");
	$session->query('');
	$is->("SELECT unit_take('v', 1)", 3, 'a process that ends gives back its slots and wakes who waits');

	# An engine that finds nothing to do gives back what it took, and must wake nobody by it, not even itself
	$is->("SELECT unit_take('s', 3), unit_take('s', 3), unit_take('s', 3, true), unit_is_woken()", '5|6|-1|f', 'bulk work waits');
	$is->("SELECT unit_take('s', 3), unit_release(7), unit_is_woken()", '7||f', 'a slot that was free before wakes nobody');
	$is->('SELECT unit_release(6), unit_is_woken()', '|t', 'one that bulk work may have does');
	$is->('SELECT unit_release(5), unit_is_woken()', '|f', 'and only once');

	# Engines
	my $engine = $node->session;
	is($node->query("SELECT unit_engine_of($database)"), 'none', 'no engine');
	$engine->query('SELECT unit_engine(true)');
	is($node->query("SELECT unit_engine_of($database)"), 'worker', 'a worker');
	$engine->query('SELECT unit_engine(false)');
	is($node->query("SELECT unit_engine_of($database)"), 'session', 'a session');
	$wait->($engine);
	$node->query('BEGIN; SELECT unit_wake_at_commit(); COMMIT');
	ok(defined $engine->query(''), 'it is woken at commit');
	$engine->query('SELECT unit_engine(NULL)');
	is($node->query("SELECT unit_engine_of($database)"), 'none', 'no engine any more');
	$engine->query('SELECT unit_launcher()');
	$wait->($engine);
	$node->query('SELECT unit_launcher_wake()');
	ok(defined $engine->query(''), 'the launcher is woken');
	is($engine->query('SELECT unit_launcher_asked(), unit_launcher_asked()'), 't|f', 'and told so once');
	$engine->query('SELECT unit_engine(true)');
	$engine->quit;
	$node->wait_until("SELECT unit_engine_of($database) = 'none'");
	pass('an engine that ended');

	# All slots of the struct
	$session->query("SELECT unit_ghost('x', 60 + i) FROM generate_series(1, 252) AS i");
	$is->("SELECT count(*) FROM mailchimp_sync.slot()", 256, 'all 256 slots are in use');
	$session->query("SELECT unit_ghost('x', 400)");
	like($session->{stderr}, qr/all 256 slots/, 'one more is not counted, with a warning');
	$is->("SELECT unit_take('y', 6)", -1, 'nor taken');
	$session->quit;
}

done_testing();
