# Answers that are lost, late or none (design: doubt; N3, N5, N8, N15): every fault that the simulator knows, on a push.
# Every change arrives in the end, with the values wanted now; an old request that lands late does not win.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 40);
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $push = '^/lists/[^/]+$';

# -----------------------------------------------------------------------------------------------------------------
# Making a merge field, with a lost answer
# -----------------------------------------------------------------------------------------------------------------

$sim->fault(method => 'POST', path => '/merge-fields$', fault => 'reset_after');
$sim->fault(method => 'GET', path => '/merge-fields$', fault => 'html_502');
$crm->sync;
is($crm->status, 'in_sync 40', 'all arrive');
is(scalar(grep { $_->{route} eq 'POST /lists/{list_id}/merge-fields' } $crm->journal), 1, 'the field is made once: the list is read again');
$crm->later(131);

# ... and with one that names no field
$sim->fault(method => 'POST', path => '/merge-fields$', fault => { type => 'status', status => 200, body => {} });
$crm->define(q{'{"FNAME": "first_name", "SHOUT": "upper(last_name)"}'}, q{tags => 'groups'}, q{linked => 'linked'});
$crm->run;
$node->wait_until("SELECT EXISTS (SELECT FROM mc_request WHERE work = 'field' AND method = 'POST' AND outcome = 'error')");
$crm->later(131);
$crm->run;
is($crm->member('c3@crm.test')->{merge_fields}{SHOUT}, uc $crm->ann('SELECT last_name FROM crm.candidate WHERE id = 3'), 'nor does an answer without a field pass for one');
$crm->define;
$crm->run;
$crm->later(131);

# -----------------------------------------------------------------------------------------------------------------
# Every fault, and a change made between the attempts
# -----------------------------------------------------------------------------------------------------------------

sub ghosts { return $node->query("SELECT count(*) FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL") }

my $session = $node->session(as => 'max');

sub try_fault
{
	my ($name, $fault, $outcome, $state) = @_;
	my $id = 1 + $crm->{tried}++;
	my $address = "c$id\@crm.test";

	$crm->run;
	$crm->journal;
	my $last = $crm->rita('SELECT max(started_at) FROM mc_request');
	my $hold = $sim->hold(method => 'POST', path => $push, nth => 2, when => 'before');
	$sim->fault(method => 'POST', path => $push, fault => $fault);
	$crm->ann("UPDATE crm.candidate SET first_name = '$name' WHERE id IN ($id, 39)");
	McTest::begin($session, 'CALL mc_run();');
	$node->wait_until("SELECT count(*) > 0 FROM mc_request WHERE started_at > '$last'");
	is($crm->rita("SELECT outcome, attempt FROM mc_request WHERE started_at > '$last' ORDER BY started_at LIMIT 1"), "$outcome|1", "$name: $outcome");
	is($crm->rita("SELECT state, detail <> '' FROM mc_connection"), "$state|t", "$name: the connection is $state and says why") if $state;
	like($crm->state($id), qr/^pending/, "$name: the contact waits");
	$crm->ann("UPDATE crm.candidate SET first_name = 'now' WHERE id = $id");
	$sim->wait_held;
	$sim->release;
	$session->query('');
	is($crm->shown($address) =~ s/\|g\d$//r, 'subscribed|now', "$name: the value that is wanted now arrives");
	is($crm->state($id), 'in_sync|', "$name: and that is known");
	is($crm->rita('SELECT state FROM mc_connection'), 'ok', "$name: the connection is well again");
	like($crm->rita("SELECT string_agg(attempt::text, ' ' ORDER BY started_at) FROM mc_request WHERE started_at > '$last' AND work = 'push'"),
		qr/^1 (1 )?2( 1)?$/, "$name: the second attempt, with the changed one, before or after it");
	is(ghosts(), $outcome eq 'doubt' ? 1 : 0, "$name: " . ($outcome eq 'doubt' ? 'a ghost stays' : 'no ghost'));
	$crm->journal;
	$crm->later(131);
	$crm->run;
	is(ghosts(), 0, "$name: it ends");
	is($crm->pushed, $outcome eq 'doubt' ? '1' : '', "$name: " . ($outcome eq 'doubt' ? 'and what is wanted is said once more' : 'nothing more is sent'));
	is($crm->shown($address) =~ s/\|g\d$//r, 'subscribed|now', "$name: it stays so");
	is($crm->shown('c39@crm.test'), "subscribed|$name|g0", "$name: who has not changed arrives as well");
}

$crm->setting(request_timeout => '3s');
$crm->setting(max_response => '1MB');
try_fault('bare_429', 'bare_429', 'refused', 'throttled');
try_fault('bare_403', 'bare_403', 'refused', 'throttled');
try_fault('500', { type => 'status', status => 500, json => JSON::PP::true }, 'answered', 'unreachable');
try_fault('429', { type => 'status', status => 429, json => JSON::PP::true, headers => { 'retry-after' => '1' } }, 'answered', 'throttled');
try_fault('html_502', 'html_502', 'doubt', 'unreachable');
try_fault('html_504_after', 'html_504_after', 'doubt', 'unreachable');
try_fault('reset_before', 'reset_before', 'doubt', 'unreachable');
try_fault('reset_after', 'reset_after', 'doubt', 'unreachable');
try_fault('cut', 'cut', 'doubt', 'unreachable');
try_fault('garbage', 'garbage', 'doubt', 'unreachable');
try_fault('huge', { type => 'huge', bytes => 3_000_000 }, 'doubt', 'unreachable');
try_fault('hang', 'hang', 'doubt', 'unreachable');
try_fault('hang_after', 'hang_after', 'doubt', 'unreachable');
like($crm->rita("SELECT string_agg(detail, E'\\n') FROM mc_request WHERE outcome = 'doubt'"), qr/$_/, "mc_request says: $_")
  for 'HTML instead of JSON', 'not JSON of Mailchimp', 'larger than mailchimp_sync.max_response';

# -----------------------------------------------------------------------------------------------------------------
# An old request that lands late, after the newer one
# -----------------------------------------------------------------------------------------------------------------

$crm->journal;
$sim->hold(method => 'POST', path => $push, nth => 1, when => 'before');
$crm->ann("UPDATE crm.candidate SET first_name = 'old' WHERE id IN (20, 21)");
McTest::begin($session, 'CALL mc_run();');
$node->wait_until("SELECT count(*) = 1 FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL");
is($node->query("SELECT count(*) FROM mailchimp_sync.slot() WHERE pid IS NULL"), 1, 'the slot of a request without an answer stays taken');
$crm->ann("UPDATE crm.candidate SET first_name = 'newer' WHERE id = 20");
$session->query('');
is($crm->shown('c20@crm.test') . ' ' . $crm->shown('c21@crm.test'), 'subscribed|newer|g2 subscribed|old|g0', 'what is wanted now is there');
$sim->release;
McTest::poll('the old request', sub { $crm->shown('c20@crm.test') eq 'subscribed|old|g2' });
pass('the old request lands after it');
$crm->run;
is($crm->shown('c20@crm.test'), 'subscribed|old|g2', 'which nobody can know yet');
$crm->journal;
$crm->later(131);
$crm->run;
is($crm->shown('c20@crm.test'), 'subscribed|newer|g2', 'when the ghost ends, what is wanted is said once more');
is($crm->pushed, '1', 'for whom it differs');
is($node->query("SELECT count(*) FROM mailchimp_sync.slot() WHERE expires > mailchimp_sync.clock()"), 0, 'the slot is free');

# The address has another owner by then (D13).
$sim->hold(method => 'POST', path => $push, nth => 1, when => 'before');
$crm->ann("UPDATE crm.candidate SET first_name = 'old' WHERE id = 22");
McTest::begin($session, 'CALL mc_run();');
$node->wait_until("SELECT count(*) = 1 FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL");
$crm->ann("INSERT INTO crm.candidate (id, first_name, email) VALUES (-1, 'heir', 'c22\@crm.test')");
$session->query('');
$sim->release;
McTest::poll('the old request', sub { $crm->shown('c22@crm.test') =~ /^subscribed\|old/ });
$crm->later(131);
$crm->run;
is($crm->shown('c22@crm.test'), 'subscribed|heir|', 'so it is for a new owner of the address');

# -----------------------------------------------------------------------------------------------------------------
# For longer: growing pauses, Retry-After, a key that is revoked
# -----------------------------------------------------------------------------------------------------------------

$crm->journal;
my $fault = $sim->fault(method => 'POST', path => $push, times => -1, fault => { type => 'status', status => 429, body => '', headers => { 'retry-after' => '600' } });
$crm->ann("UPDATE crm.candidate SET first_name = 'patient' WHERE id = 23");
$crm->run;
$crm->run;
$crm->later(590);
$crm->run;
is($crm->pushed, '1', 'Retry-After is kept');
is($crm->rita('SELECT state FROM mc_connection'), 'throttled', 'the connection shows it');
is($crm->rita("SELECT string_agg(item, ' ') FROM mc_status WHERE NOT ok AND item ~ 'connection'"), 'connection main', 'so does mc_status');
$sim->delete("/_sim/faults/$fault");
$crm->later(11);
$crm->run;
is($crm->shown('c23@crm.test'), 'subscribed|patient|g2', 'and then it arrives');

$crm->journal;
$fault = $sim->fault(method => 'POST', path => $push, times => -1, fault => 'html_502');
$crm->ann("UPDATE crm.candidate SET first_name = 'down' WHERE id = 24");
$crm->run;
my @tries = map { $_->{started} } grep { $_->{route} eq 'POST /lists/{list_id}' } $crm->journal;
ok(@tries >= 3 && @tries <= 5, 'for some seconds mc_run goes on trying (' . scalar(@tries) . ' times)');
ok($tries[2] - $tries[1] > 1400, 'with growing pauses');
is($crm->rita("SELECT state FROM mc_connection"), 'unreachable', 'then it ends, with the connection unreachable');
like($crm->state(24), qr/^pending\|No usable answer: the answer is HTML/, 'the contact says what it waits for');
$sim->delete("/_sim/faults/$fault");
$crm->later(131);
$crm->run;
is($crm->shown('c24@crm.test'), 'subscribed|down|g0', 'when Mailchimp is back it arrives');

# A user who may not write: 403 with a reason is no trouble of the connection, and no reason for a storm of requests.
$crm->journal;
$fault = $sim->fault(method => 'POST', path => $push, times => -1, fault => { type => 'status', status => 403, json => JSON::PP::true });
$crm->ann("UPDATE crm.candidate SET first_name = 'forbidden' WHERE id = 25");
$crm->run;
ok(scalar(split / /, $crm->pushed) <= 5, '403 with a reason: pauses that grow');
isnt($crm->rita("SELECT detail FROM mc_connection"), '', 'the connection has the words');
$sim->delete("/_sim/faults/$fault");
$crm->later(300);
$crm->run;
is($crm->shown('c25@crm.test'), 'subscribed|forbidden|g1', 'it arrives when it may');

$sim->delete('/_sim/keys/demo-us1');
$crm->ann("UPDATE crm.candidate SET first_name = 'locked out' WHERE id = 26");
$crm->journal;
$crm->run;
$crm->later(3600);
$crm->run;
is($crm->pushed, '1', '401: asked once and never again');
like($crm->rita("SELECT state, detail FROM mc_connection"), qr/^auth_failed\|./, 'auth_failed, with Mailchimp\'s words');
like($crm->state(26), qr/^pending/, 'nothing is lost');
$sim->post('/_sim/keys', { key => 'new-us1', login_id => $crm->{demo}{login_id} });
$crm->ann("SELECT mc_connect('main', 'new-us1')");
$crm->run;
is($crm->shown('c26@crm.test'), 'subscribed|locked out|g2', 'a new key resumes');

# -----------------------------------------------------------------------------------------------------------------
# The process dies while a request is under way
# -----------------------------------------------------------------------------------------------------------------

$crm->setting(request_timeout => '59s');
for my $when ('before', 'after')
{
	$sim->hold(method => 'POST', path => $push, when => $when);
	$crm->ann("UPDATE crm.candidate SET first_name = 'dying $when' WHERE id IN (27, 28)");
	my $dying = $node->session(as => 'max');
	McTest::begin($dying, 'CALL mc_run();');
	$sim->wait_held;
	$node->query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'max' AND query ~ 'mc_run' AND state = 'active'");
	$node->wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE query ~ 'mc_run' AND usename = 'max' AND state = 'active'");
	is($node->query("SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND objsubid = 1"), 0, "terminated ($when): no lock is left");
	eval { $dying->quit };
	$crm->ann("UPDATE crm.candidate SET first_name = 'living' WHERE id = 28");
	$crm->run;
	is(ghosts(), 1, 'the next call takes the request for a ghost');
	is($crm->shown('c27@crm.test') . ' ' . $crm->shown('c28@crm.test'), "subscribed|dying $when|g0 subscribed|living|g1", 'and sends what is wanted');
	$sim->release;
	McTest::poll('the old request', sub { !grep { !defined $_->{ended} } $sim->journal(route => 'POST /lists/{list_id}') });
	$crm->later(131);
	$crm->run;
	is($crm->shown('c27@crm.test') . ' ' . $crm->shown('c28@crm.test'), "subscribed|dying $when|g0 subscribed|living|g1", 'also after it landed');
}
$session->quit;
is($crm->status, 'conflict 1 in_sync 40', 'everything is in sync');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'nothing has failed');
my %members = $crm->members;
my %wanted = map { split /\|/ } split /\n/, $crm->ann("SELECT email || '|' || first_name FROM crm.candidate WHERE id <> 22");
is_deeply({ map { $_ => $members{$_}{merge_fields}{FNAME} } keys %members }, \%wanted, 'Mailchimp has what the CRM has');

done_testing();
