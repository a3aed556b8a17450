# Taking tags away with answers that are lost, late or none, and an engine that is killed (design: doubt; D16, N5, R67): in the
# end every contact has the tags that are wanted now, and an old request that lands late does not win.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 30);
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $remove = '^/lists/[^/]+/segments/\d+$';
my $push = '^/lists/[^/]+$';

$crm->ann("UPDATE crm.candidate SET groups = '{keep, t}'");
$crm->act('c1', 'add', tags => ['by hand']);
$crm->sync;
$crm->setting(request_timeout => '3s');

my $session = $node->session(as => 'max');
sub ghosts { return $node->query('SELECT count(*) FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL') }
sub set { my ($groups, @ids) = @_; return $crm->ann("UPDATE crm.candidate SET groups = '{$groups}' WHERE id IN (" . join(', ', @ids) . ')') }
sub open_requests { return scalar grep { !defined $_->{ended} } $sim->journal }

# Requests that are held go on, and have their effect, whoever still listens.
sub land
{
	$sim->release;
	return McTest::poll('the old request', sub { open_requests() == 0 });
}

# -----------------------------------------------------------------------------------------------------------------
# Every fault: two contacts lose a tag, one of them is to have it again before that is known
# -----------------------------------------------------------------------------------------------------------------

sub try_fault
{
	my ($name, $fault, $outcome) = @_;
	my $loses = 1 + 2 * $crm->{tried}++;
	my $regains = $loses + 1;
	my $last = $crm->rita('SELECT max(started_at) FROM mc_request');

	$sim->fault(method => 'POST', path => $remove, fault => $fault);
	set('keep', $loses, $regains);
	McTest::begin($session, 'CALL mc_run();');
	$node->wait_until("SELECT count(*) > 0 FROM mc_request WHERE started_at > '$last' AND work = 'tag'");
	is($crm->rita("SELECT outcome, attempt FROM mc_request WHERE started_at > '$last' AND work = 'tag' ORDER BY started_at LIMIT 1"),
		"$outcome|1", "$name: $outcome");
	set('keep,t', $regains);
	$session->query('');
	$crm->run;
	is($crm->tags($loses) =~ s/by hand,//r, 'keep', "$name: the tag is taken away");
	is($crm->tags($regains), 'keep,t', "$name: and put on again where it is wanted again");
	is($crm->status, 'in_sync 30', "$name: all are in sync");
	is(ghosts() > 0, $outcome eq 'doubt', "$name: " . ($outcome eq 'doubt' ? 'a ghost stays' : 'no ghost'));
	$crm->later(131);
	$crm->run;
	is(join(' ', ghosts(), $crm->tags($loses) =~ s/by hand,//r, $crm->tags($regains)), '0 keep keep,t', "$name: it stays so");
}

try_fault('bare_429', 'bare_429', 'refused');
try_fault('500', { type => 'status', status => 500, json => JSON::PP::true }, 'answered');
try_fault('reset_before', 'reset_before', 'doubt');
try_fault('reset_after', 'reset_after', 'doubt');
try_fault('cut', 'cut', 'doubt');
try_fault('hang', 'hang', 'doubt');

# An answer that says nothing of what was asked cannot be applied, and is asked for once more a minute later.
$sim->fault(method => 'POST', path => $remove, fault => { type => 'status', status => 200, body => { total_added => 0 } });
set('keep', 19);
$crm->run;
like($crm->state(19), qr/^pending\|the reply could not be applied: .*"total_removed"/, 'an answer about something else is none');
$crm->later(61);
$crm->run;
is($crm->state(19) . $crm->tags(19), 'in_sync|keep', 'it is asked for again');
is($crm->tags(1), 'by hand,keep', 'D16: through all of that a tag that was put on by hand stays');

# -----------------------------------------------------------------------------------------------------------------
# A removal that lands after the tag was put on again; what waits for its ghost
# -----------------------------------------------------------------------------------------------------------------

$sim->hold(method => 'POST', path => $remove, when => 'before');
set('keep', 20, 21, 22, 23);
McTest::begin($session, 'CALL mc_run();');
$node->wait_until('SELECT count(*) = 1 FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL');
set('keep,t', 20);
$crm->ann("UPDATE crm.candidate SET email = 'moved21\@crm.test', groups = '{keep, t}' WHERE id = 21; DELETE FROM crm.candidate WHERE id = 22;
	INSERT INTO crm.candidate (id, first_name, email, groups) VALUES (-23, 'Heir', 'c23\@crm.test', '{t, u}')");
$session->query('');
$crm->run;
is($crm->tags(20), 'keep,t', 'put on again at once');
is($crm->tags(23), 't,u', 'also for a contact that takes the address over');
is($crm->shown('c21@crm.test') . ' ' . $crm->shown('c22@crm.test') =~ s/\|.*//r, 'subscribed|F21|keep,t subscribed', 'a changed address and a leave wait');
land();
is(join(' | ', $crm->tags(20), $crm->tags(23)), 'keep | u', 'the old removal lands after that');
$crm->later(131);
$crm->run;
is(join(' | ', $crm->tags(20), $crm->tags(23)), 'keep,t | t,u', 'when its ghost ends what is wanted is said once more');
is($crm->shown('moved21@crm.test') . ' ' . $crm->shown('c22@crm.test') =~ s/\|.*//r, 'subscribed|F21|keep,t archived', 'and what waited is done');
is($crm->status, 'conflict 1 in_sync 29 outside 1', 'all have come to rest');

# -----------------------------------------------------------------------------------------------------------------
# A push that lands after what it put on was taken away
# -----------------------------------------------------------------------------------------------------------------

$sim->hold(method => 'POST', path => $push, when => 'before');
set('keep,late', 24);
$crm->ann("INSERT INTO crm.candidate (id, first_name, email, groups) VALUES (40, 'New', 'c40\@crm.test', '{late}')");
McTest::begin($session, 'CALL mc_run();');
$node->wait_until('SELECT count(*) = 1 FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL');
set('keep', 24);
set('', 40);
$session->query('');
$crm->run;
is($crm->status, 'conflict 1 in_sync 30 outside 1', 'its tags are not there as far as anybody knows');
is(join(' | ', $crm->tags(24), $crm->tags(40)), 'keep | ', 'nor are they');
land();
is(join(' | ', $crm->tags(24), $crm->tags(40)), 'keep,late | late', 'the old push puts them on');
$crm->later(131);
$crm->run;
is(join(' | ', $crm->tags(24), $crm->tags(40)), 'keep | ', 'when its ghost ends they are taken away');
is($crm->status, 'conflict 1 in_sync 30 outside 1', 'and that is known');

# The same where it had landed at once: that is put right at once.
$sim->fault(method => 'POST', path => $push, fault => 'hang_after');
set('keep,landed', 24);
McTest::begin($session, 'CALL mc_run();');
$node->wait_until('SELECT count(*) = 1 FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL');
is($crm->tags(24), 'keep,landed', 'a push without an answer has put a tag on');
set('keep', 24);
$session->query('');
$crm->run;
is($crm->tags(24), 'keep', 'which is taken away before its ghost ends');
$crm->later(131);
$crm->run;

# Asking for a segment
my $fault = $sim->fault(method => 'GET', path => '/tag-search', fault => 'cut');
$sim->fault(method => 'POST', path => $push, fault => 'reset_after');
set('keep,unseen', 25);
McTest::begin($session, 'CALL mc_run();');
$node->wait_until('SELECT count(*) = 1 FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL');
set('keep', 25);
$session->query('');
$crm->run;
is($crm->tags(25), 'keep', 'an answer that is cut off does not pass for "there is none"');
$crm->later(131);
$crm->run;

# -----------------------------------------------------------------------------------------------------------------
# The engine is killed around a removal
# -----------------------------------------------------------------------------------------------------------------

# An engine is at work until a request is held, and is killed then; the server starts anew.
sub killed_at
{
	my ($path, $when) = @_;
	$sim->hold(method => 'POST', path => $path, when => $when);
	my $dying = $node->session(as => 'max');
	McTest::begin($dying, 'CALL mc_run();');
	$sim->wait_held;
	$node->kill_backend($node->query("SELECT pid FROM pg_stat_activity WHERE usename = 'max' AND query ~ 'mc_run' AND state = 'active'"));
	eval { $dying->quit };
	return;
}

$session->quit;
$crm->setting(request_timeout => '59s');
for my $when ('before', 'after')
{
	my ($loses, $regains) = $when eq 'before' ? (26, 27) : (28, 29);
	set('keep', $loses, $regains);
	killed_at($remove, $when);
	set('keep,t', $regains);
	$crm->run;
	is(ghosts(), 1, "killed ($when): the next engine takes the removal for a ghost");
	is(join(' | ', map { $crm->tags($_) } $loses, $regains), 'keep | keep,t', 'and does what is wanted');
	land();
	$crm->later(131);
	$crm->run;
	is(join(' | ', map { $crm->tags($_) } $loses, $regains), 'keep | keep,t', 'which is so also after the old one landed');
}
set('keep,lost', 30);
killed_at($push, 'after');
set('keep', 30);
$crm->run;
is($crm->tags(30), 'keep', 'killed during a push: the tag that it put on is taken away before its ghost ends');
land();
$crm->later(131);
$crm->run;
is($crm->status, 'conflict 1 in_sync 30 outside 1', 'all have come to rest');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'nothing has failed');
my %members = $crm->members;
my %wanted = map { my ($email, $tags) = split /\|/; ($email => $tags) } split /\n/,
  $crm->ann("SELECT email, array_to_string(ARRAY(SELECT unnest(groups || CASE id WHEN 1 THEN 'by hand' END) ORDER BY 1), ',') FROM crm.candidate WHERE id <> 23");
is_deeply({ map { $_ => join ',', sort @{ $members{$_}{tags} } } grep { $members{$_}{status} eq 'subscribed' } keys %members },
	{ map { $_ => $wanted{$_} // '' } keys %wanted }, 'Mailchimp has the tags that the CRM has');

done_testing();
