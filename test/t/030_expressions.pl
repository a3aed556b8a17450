# The expressions of a source beside other sessions: cancelled, terminated, waiting for locks, leaving nothing behind
# (N4, N9; design.md rule 3). What one session shows is in test/sql/evaluate.sql. The roles log in themselves, since
# what one may do to a session depends on who logged in.

use strict;
use warnings;
use McTest;
use Test::More;

my $node = McTest::Node->start('main', conf => "deadlock_timeout = '100 ms'\n");
$node->role($_) for qw(owner caller);
$node->query(<<'SQL');
CREATE SCHEMA crm AUTHORIZATION owner;
GRANT USAGE ON SCHEMA mailchimp_sync, crm TO caller;
GRANT EXECUTE ON FUNCTION mailchimp_sync.evaluate(regrole, text, text[]) TO caller;
SQL
expression_timeout('1min');
$node->query(<<'SQL', as => 'owner');
CREATE TABLE crm.person (id int);
INSERT INTO crm.person VALUES (1);
-- sleeps; cancelled, it goes on in its own way
CREATE FUNCTION crm.stubborn(_times int) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. _times LOOP
		BEGIN
			PERFORM pg_sleep(600);
		EXCEPTION WHEN query_canceled THEN
			NULL;
		END;
	END LOOP;
	RETURN '"done"';
END $$;
-- a name for what happens in it
CREATE FUNCTION crm.do(_sql text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'said by an expression';
	EXECUTE _sql;
	RETURN '"done"';
END $$;
SQL

# For sessions that begin after it.
sub expression_timeout
{
	my ($value) = @_;
	$node->query("ALTER SYSTEM SET mailchimp_sync.expression_timeout = '$value'");
	$node->query('SELECT pg_reload_conf()');
	$node->wait_until("SELECT current_setting('mailchimp_sync.expression_timeout') = '$value'");
}

# The statement that evaluates an expression for some keys.
sub evaluate
{
	my ($expression, $keys) = @_;
	$keys //= '{a,b}';
	return "SELECT contact_key, value, error_state, error_message FROM mailchimp_sync.evaluate('owner', "
	  . "\$q\$SELECT k, $expression FROM unnest(\$1) AS u(k)\$q\$, '$keys')";
}

# A session of the caller that evaluates and has come to where the other is to act; returns its process.
sub begin_and_wait
{
	my ($session, $sql, $event) = @_;
	my $pid = $session->query('SELECT pg_backend_pid()');
	McTest::begin($session, "$sql;");
	$node->wait_until("SELECT wait_event = '$event' FROM pg_stat_activity WHERE pid = $pid");
	return $pid;
}

sub begin_session
{
	my $session = $node->session(as => 'caller');
	$session->query("SET client_min_messages = notice");
	return $session;
}

# --- a cancel request is for the whole statement, also when an expression caught it

for my $expression ('to_jsonb(1) FROM pg_sleep(600),', 'crm.stubborn(1) FROM')
{
	my $session = begin_session();
	my $pid = begin_and_wait($session, "SELECT count(*) FROM mailchimp_sync.evaluate('owner', "
		. "\$q\$SELECT k, $expression unnest(\$1) AS u(k)\$q\$, '{a}')", 'PgSleep');
	$node->query("SELECT pg_cancel_backend($pid)");
	is($session->query(''), '', "cancelled: no rows of $expression");
	like($session->{stderr}, qr/canceling statement due to user request/, 'but the error');
	is($session->query("SELECT 'alive'"), 'alive', 'and the session goes on');
	$session->quit;
}

# --- the timer's own does not leak into the statements after it, and is not mistaken for a request

{
	expression_timeout('20ms');
	my $session = begin_session();
	my $sql = evaluate('crm.stubborn(3)');
	$session->query("SET statement_timeout = '1 min'");
	is($session->query("SELECT error_state, count(*) FROM generate_series(1, 50) i, LATERAL ($sql) e GROUP BY 1"),
		'57014|50', 'fifty evaluations in one statement, each ended by the timer');
	is($session->query("SELECT 'alive'"), 'alive', 'and the statement after them is not');
	$session->quit;
	expression_timeout('1min');
}

# --- whoever catches for ever can be terminated

{
	my $session = begin_session();
	my $pid = begin_and_wait($session, evaluate('crm.stubborn(1000000)', '{a}'), 'PgSleep');
	$node->query("SELECT pg_cancel_backend($pid)");
	$node->query("SELECT pg_terminate_backend($pid)");
	$node->wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
	pass('an expression that catches every cancel request ends with its session');
	eval { $session->quit };
}

# --- locks of others: the source waits

{
	my $other = $node->session;
	$other->query('BEGIN; LOCK TABLE crm.person');
	my $session = begin_session();
	$session->query("SET lock_timeout = '50 ms'");
	is($session->query(evaluate('to_jsonb((SELECT min(id) FROM crm.person))')),
		'||55P03|canceling statement due to lock timeout', 'lock_timeout is an error of the source');
	is($session->query(evaluate('(SELECT crm.do(\'LOCK TABLE crm.person IN ACCESS SHARE MODE NOWAIT\'))')),
		'||55P03|could not obtain lock on relation "crm.person"', 'NOWAIT too');
	$session->query('RESET lock_timeout');
	$session->query('BEGIN; SELECT pg_advisory_xact_lock(7)');
	begin_and_wait($session, evaluate('to_jsonb((SELECT min(id) FROM crm.person))'), 'relation');
	McTest::begin($other, "SET deadlock_timeout = '10 min'; SELECT pg_advisory_xact_lock(7);");
	is($session->query(''), '||40P01|deadlock detected', 'a deadlock is an error of the source');
	is($session->query("SELECT 'alive'; COMMIT"), 'alive', 'and the transaction that evaluates goes on');
	$other->query('COMMIT');
	$other->quit;
	$session->quit;
}

# --- nothing reaches other sessions or the client

{
	my $listener = $node->session;
	$listener->query('LISTEN made');
	my $session = begin_session();
	my $sql = evaluate("crm.do('NOTIFY made')");
	is($session->query($sql), "a|\"done\"||\nb|\"done\"||", 'an expression that notifies');
	unlike($session->{stderr}, qr/said by an expression/, 'its warnings are not for the caller');
	$session->query('NOTIFY made');
	my $heard = $listener->query('SELECT 1');
	is(scalar(() = $heard =~ /Asynchronous notification "made"/g), 1, 'only the notification of the caller arrives');
	$_->quit for $listener, $session;
}

# --- an advisory lock of the session that an expression gives away while somebody waits for it

{
	my $session = begin_session();
	my $other = $node->session;
	$session->query('SELECT pg_advisory_lock(50)');
	begin_and_wait($other, 'SELECT pg_advisory_lock(50)', 'advisory');
	$session->query(evaluate("crm.do('SELECT pg_advisory_unlock(50)')", '{a}'));
	like($session->{stderr}, qr/WARNING.*released an advisory lock of this session/, 'is lost, with a warning');
	$other->query('');
	$_->quit for $other, $session;
}

# --- a role may cancel its own session, by an expression as well, and no other's

{
	my $sql = evaluate('to_jsonb(pg_cancel_backend(pg_backend_pid()))');
	like($node->query($sql, as => 'caller'), qr/^\|\|42501\|/, 'not the session of the caller');
	$node->query('GRANT USAGE ON SCHEMA mailchimp_sync TO owner;'
		  . 'GRANT EXECUTE ON FUNCTION mailchimp_sync.evaluate(regrole, text, text[]) TO owner');
	like($node->error($sql, as => 'owner'), qr/57014.*canceling statement due to user request/, 'its own');
}

# --- what goes through the gate is not for expressions, whatever level their owner has

{
	$node->query("SELECT mc_grant('owner', 'admin')");
	like($node->query(evaluate("to_jsonb(public.mc_pause('none')::text)", '{a}'), as => 'caller'),
		qr/^\|\|0A000\|an expression of a source cannot call mc_pause/, 'no public function from an expression');
}

done_testing();
