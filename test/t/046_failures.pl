# What fails is tried again, by itself where that can help (R62, N8): refusals of the day, contacts that a deleted merge field stood
# against, requests at which Mailchimp itself fails; by mc_retry at once. And no change at Mailchimp is missed by a clock that differs.

use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 60, demo => { lists => [ { name => 'Customers' }, { name => 'Second' } ] });
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $push = { method => 'POST', path => '^/lists/[^/]+$' };

sub failing { return { type => 'status', status => $_[0], json => JSON::PP::true } }
sub broken { my ($status, %where) = @_; return $sim->fault(times => -1, %where, fault => failing($status)) }
sub mend { $sim->delete('/_sim/faults') }

# Every rest that grows by itself grows beyond what a slow machine takes.
sub fail_long
{
	$crm->run;
	for my $seconds (20, 40, 80, 160) { $crm->later($seconds); $crm->run }
}

$crm->sync;
$crm->requests;

# -----------------------------------------------------------------------------------------------------------------
# Refusals of the day
# -----------------------------------------------------------------------------------------------------------------

# Mailchimp's words for now, once, of an address that it takes later; beside one that it never takes.
my $words = 'c1@crm.test has signed up to a lot of lists very recently; we\'re not allowing more signups for now.';
$sim->fault(%$push, fault => { type => 'status', status => 200, body => { new_members => [], updated_members => [], errors => [
	{ email_address => 'c1@crm.test', error => $words, error_code => 'ERROR_GENERIC' }] } });
$crm->ann("UPDATE crm.candidate SET first_name = 'Busy' WHERE id = 1");
$crm->run;
$crm->ann("UPDATE crm.candidate SET email = 'fake2\@crm.test' WHERE id = 2; UPDATE crm.candidate SET email = 'toomany3\@crm.test' WHERE id = 3");
$crm->run;
is($crm->state(1), "refused|$words", 'R62: a refusal for now, in Mailchimp\'s words');
is($crm->rita("SELECT string_agg(format('%s %s %s', work, attempts, next_attempt_at - last_failed_at BETWEEN '1 day' AND '1 day 2 hours'), ', ' ORDER BY contact_key)
	FROM mc_failure"), 'push 1 t, rename 1 , rename 1 t', 'N8: is tried again after a day, another one is not');
is($crm->rita("SELECT ok, detail FROM mc_status WHERE item = 'failures'"), 't|2 of them tried again by itself; see mc_failure', 'which is no alarm');
$crm->requests;
$crm->later(86000);
$crm->sync;
is($crm->pushed, '', 'not before');
$crm->later(7700);
$crm->run;
is($crm->requests, 'PATCH /lists/{list_id}/members/{subscriber_hash} 400, POST /lists/{list_id} 200', 'then those two');
is($crm->shown('c1@crm.test') . ' ' . $crm->state(1), 'subscribed|Busy|g1 in_sync|', 'taken');
is($crm->rita("SELECT string_agg(format('%s %s %s', work, attempts, next_attempt_at > last_failed_at + interval '1 day'), ', ' ORDER BY contact_key) FROM mc_failure"),
	'rename 1 , rename 2 t', 'or refused once more, which counts');
$crm->ann("UPDATE crm.candidate SET email = 'c' || id || '\@crm.test' WHERE id IN (2, 3)");
$crm->run;
is($crm->status . ' ' . $crm->rita('SELECT count(*) FROM mc_failure'), 'in_sync 60 0', 'who changes does not wait for it');

# -----------------------------------------------------------------------------------------------------------------
# A merge field that somebody deletes at Mailchimp
# -----------------------------------------------------------------------------------------------------------------

my $fields = 'GET /lists/{list_id}/merge-fields 200';
my $healed = "$fields, POST /lists/{list_id}/merge-fields 200, POST /lists/{list_id} 200";
$crm->requests;
$sim->post('/_sim/act', { list => $list, action => 'delete_field', tag => 'LNAME' });
$crm->ann("UPDATE crm.candidate SET last_name = 'Again' WHERE id IN (1, 2)");
$crm->run;
is($crm->requests, "POST /lists/{list_id} 200, $healed", 'a field is gone: the fields are read again, it is made, and who was refused goes');
is($crm->status . ' ' . $crm->member('c1@crm.test')->{merge_fields}{LNAME}, 'in_sync 60 Again', 'all is well');
$sim->post('/_sim/act', { list => $list, action => 'delete_field', tag => 'LNAME' });
$crm->ann("UPDATE crm.candidate SET last_name = 'And again' WHERE id IN (1, 2)");
$crm->run;
is($crm->requests . ' ' . $crm->status, 'POST /lists/{list_id} 200 in_sync 58 refused 2', 'soon after that the fields are not read once more');
is($crm->rita("SELECT DISTINCT field FROM mc_failure"), 'LNAME', 'the failures name the field');
$crm->later(650);
$crm->run;
is($crm->requests . ' ' . $crm->status, "$healed in_sync 60", 'but after ten minutes');

# Where the fields are what they were, one look is enough, and the contact rests.
$sim->post('/_sim/act', { list => $list, action => 'add_field', tag => 'BORN', name => 'Born', type => 'date' });
$crm->ann("ALTER TABLE crm.candidate ADD born text");
$crm->define(q{'{"FNAME": "first_name", "LNAME": "last_name", "BORN": "born"}'}, q{tags => 'groups'}, q{linked => 'linked'});
$crm->run;
$crm->ann("UPDATE crm.candidate SET born = 'once' WHERE id = 1");
$crm->run;
$crm->requests;
$crm->later(700), $crm->run for 1 .. 3;
is($crm->requests . ' ' . $crm->status, "$fields in_sync 59 refused 1", 'a value that a field does not take is no reason to read the fields again and again');
$sim->post('/_sim/act', { list => $list, action => 'delete_field', tag => 'BORN' });
$sim->post('/_sim/act', { list => $list, action => 'add_field', tag => 'BORN', name => 'Born', type => 'text' });
$crm->max("SELECT mc_refresh('main')");
$crm->run;
is($crm->member('c1@crm.test')->{merge_fields}{BORN} . ' ' . $crm->status, 'once in_sync 60', 'a field of another type, which mc_refresh has seen: it is tried again');

# -----------------------------------------------------------------------------------------------------------------
# Mailchimp fails at one contact, and for everybody
# -----------------------------------------------------------------------------------------------------------------

broken(500, %$push, body => 'poison');
$crm->ann("UPDATE crm.candidate SET first_name = CASE id WHEN 7 THEN 'poison' ELSE 'fine' END WHERE id <= 26");
$crm->run;
for (1 .. 5) { last if $crm->status eq 'in_sync 59 refused 1'; $crm->later(60); $crm->run }
is($crm->status, 'in_sync 59 refused 1', 'one at which Mailchimp fails: the others arrive');
like($crm->state(7), qr/^refused\|Internal Server Error|^refused\|./, 'it rests');
is($crm->rita("SELECT work, next_attempt_at - last_failed_at BETWEEN '1 day' AND '1 day 2 hours' FROM mc_failure"), 'push|t', 'for a day');
mend();
is($crm->max("SELECT mc_retry('people', 'candidate', '7')"), 1, 'or until mc_retry');
$crm->run;
is($crm->shown('c7@crm.test') . ' ' . $crm->rita('SELECT count(*) FROM mc_failure'), 'subscribed|poison|g1 0', 'which heals it');

# -----------------------------------------------------------------------------------------------------------------
# Answers that are not what the API says
# -----------------------------------------------------------------------------------------------------------------

# What the simulator answers: that it has updated these, whatever the second argument says of a part of them.
sub answers
{
	my ($ids, %parts) = @_;
	my @members = map { { id => md5_hex("c$_\@crm.test"), email_address => "c$_\@crm.test", contact_id => "id$_", status => 'subscribed', merge_fields => {}, tags => [],
		last_changed => '2026-01-01T00:00:00+00:00', %{ $parts{$_} // {} } } } @$ids;
	return $sim->fault(%$push, fault => { type => 'status', status => 200, body => { new_members => [], updated_members => \@members, errors => [] } });
}

my @wrong = ([ tags => 'none' ], [ tags => [ 1, 'two' ] ], [ tags => [ { id => {}, name => 'x' } ] ], [ tags => [ { id => 1, name => [] } ] ], [ merge_fields => [] ], [ merge_fields => '{' ],
	[ status => 'nonsense' ], [ status => 7 ], [ email_address => JSON::PP::null ]);
answers([ 1 .. @wrong + 2 ], map({ ($_ + 1 => { $wrong[$_][0] => $wrong[$_][1] }) } keys @wrong), @wrong + 1 => { last_changed => '2026-02-31T99:00:00', contact_id => [] });
$crm->ann('UPDATE crm.candidate SET first_name = \'read\' WHERE id <= ' . (@wrong + 2));
$crm->requests;
$crm->run;
is($crm->requests . ' ' . $crm->status, 'POST /lists/{list_id} 200 in_sync ' . (60 - @wrong) . ' refused ' . @wrong, 'the others of the answer are read, also where an instant is none');
is($crm->rita("SELECT string_agg(format('%s %s %s', detail, title, next_attempt_at - last_failed_at BETWEEN '1 day' AND '1 day 2 hours'), ', ' ORDER BY contact_key::int) FROM mc_failure"),
	join(', ', map { qq{"$_->[0]" in Mailchimp's answer is not what its API says unreadable answer t} } @wrong), 'each is a failure of its own that rests for a day');
$crm->ann("UPDATE crm.candidate SET active = false WHERE id IN (1, 2); UPDATE crm.candidate SET first_name = 'more' WHERE id = 3");
$crm->run;
is($crm->shown('c1@crm.test') =~ s/\|.*//r . ' ' . $crm->shown('c2@crm.test') =~ s/\|.*//r, 'archived archived', 'who is there by an answer that could not be read can leave');
is($crm->shown('c3@crm.test'), 'subscribed|more|g0', 'or changes');
$crm->ann('UPDATE crm.candidate SET active = true WHERE id IN (1, 2)');
$crm->max('SELECT mc_retry()');
$crm->run;
is($crm->status . ' ' . $crm->rita('SELECT count(*) FROM mc_failure'), 'in_sync 60 0', 'or is tried again');

# Something else that cannot be stored: whoever is to blame is found.
$node->query(q{CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no room for it'' USING ERRCODE = ''22001''; END';
	CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON mailchimp_sync.member FOR EACH ROW WHEN (NEW.email = 'c9@crm.test' AND NEW.sent_fields ->> 'FNAME' = 'huge') EXECUTE FUNCTION public.refuse()});
$crm->ann("UPDATE crm.candidate SET first_name = CASE id WHEN 9 THEN 'huge' ELSE 'small' END WHERE id <= 20");
$crm->run;
for (1 .. 12) { last if $crm->status eq 'in_sync 59 refused 1'; $crm->later(400); $crm->run }
is($crm->status . ' ' . $crm->state(9), 'in_sync 59 refused 1 refused|no room for it', 'one whose answer cannot be stored: the others arrive, and it rests');
is($crm->rita("SELECT title, next_attempt_at - last_failed_at BETWEEN '1 day' AND '1 day 2 hours' FROM mc_failure"), 'the reply could not be applied|t', 'for a day');
is($crm->rita("SELECT DISTINCT status, detail FROM mc_request WHERE outcome = 'error'"), '200|the reply could not be applied: SQLSTATE 22001', 'mc_request says it, without words that may quote a value');
$node->query('DROP TRIGGER refuse ON mailchimp_sync.member; DROP FUNCTION public.refuse()');
$crm->max('SELECT mc_retry()');
$crm->run;
is($crm->status . ' ' . $crm->shown('c9@crm.test'), 'in_sync 60 subscribed|huge|g0', 'it is there after all');

# Clearing away fails: that is no reason to do nothing else.
$node->query(q{CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''nothing is deleted''; END';
	CREATE TRIGGER refuse BEFORE DELETE ON mailchimp_sync.request FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()});
my $log = -s $node->logfile;
$crm->ann("UPDATE crm.candidate SET first_name = 'goes on' WHERE id = 9");
$crm->run;
is($crm->shown('c9@crm.test'), 'subscribed|goes on|g0', 'N17: the engine works on where the log of requests cannot be cleared');
is(() = substr(PostgreSQL::Test::Utils::slurp_file($node->logfile), $log) =~ /WARNING:  could not delete what is kept no longer: nothing is deleted/g, 1, 'and says so once');
$node->query('DROP TRIGGER refuse ON mailchimp_sync.request; DROP FUNCTION public.refuse()');

# An outage takes nobody apart.
$crm->requests;
broken(503);
$crm->ann("UPDATE crm.candidate SET first_name = 'late' WHERE id <= 10");
fail_long();
my @sizes = map { scalar @{ $_->{body}{members} } } grep { $_->{route} eq 'POST /lists/{list_id}' } $crm->journal;
cmp_ok(scalar @sizes, '>=', 4, 'Mailchimp is down');
is(join(' ', grep { $_ != 10 } @sizes), '', 'and all travel together each time');
mend();
$crm->later(600);
$crm->run;
is($crm->pushed, '10', 'until it works');

# -----------------------------------------------------------------------------------------------------------------
# mc_retry reaches what keeps failing
# -----------------------------------------------------------------------------------------------------------------

# All at once: leaving, opting out, reading, a changed address; and another audience, whose list is gone.
my $second = $crm->{demo}{lists}[1]{id};
$crm->ann("SELECT mc_create_audience('second', 'main', 'Second', 'candidate', 'id = 1')");
$crm->sync('second');
$crm->later(700);
broken(400, method => 'DELETE');
broken(400, method => 'PATCH');
broken(404, path => "^/lists/$second\$");
$crm->ann("DELETE FROM crm.candidate WHERE id = 60; UPDATE crm.candidate SET email = 'moved\@crm.test' WHERE id = 59;
	UPDATE crm.candidate SET active = false WHERE id = 2; UPDATE crm.candidate SET first_name = 'listed' WHERE id = 1");
$crm->max("SELECT mc_opt_out('candidate', 58); SELECT mc_opt_out_email('c57\@crm.test')");
$crm->run;
# nobody leaves before the statuses are read, so that fails last
broken(400, method => 'GET', path => "^/lists/$list/members\$");
$crm->later(700);
fail_long();
my $failures = q{SELECT string_agg(work || ' ' || coalesce(contact_key, ''), ', ' ORDER BY work, contact_key COLLATE "C") FROM mc_failure};
is($crm->rita($failures) =~ s/[0-9a-f]{32}/hash/r, 'leave 2, leave 58, leave 60, leave hash, pull , rename 59', 'all kinds of work fail');
like($crm->rita("SELECT state, detail FROM mc_audience WHERE audience = 'second'"), qr/^failing\|./, 'and so does an audience as a whole');
$crm->ann("UPDATE crm.candidate SET active = true WHERE id = 2");
$crm->run;
is($crm->rita($failures) =~ s/[0-9a-f]{32}/hash/r, 'leave 58, leave 60, leave hash, pull , rename 59', 'work that nobody wants any more is no failure');
mend();
$crm->requests;
$crm->run;
is($crm->requests, '', 'the others rest');
like($node->error("SELECT mc_retry()", as => 'rita'), qr/42501/, 'a reader may not end that');
is($crm->max("SELECT mc_retry('people')"), 5, 'mc_retry of an audience: how many');
$crm->run;
is(join(' ', map { $crm->shown($_) =~ s/\|.*//r } 'c57@crm.test', 'c58@crm.test', 'moved@crm.test', 'c60@crm.test'), 'unsubscribed unsubscribed subscribed archived', 'all is done');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'nothing is left');
is($crm->rita("SELECT state FROM mc_audience WHERE audience = 'second'"), 'failing', 'but of the other audience');
is($crm->max('SELECT mc_retry()') . ' ' . $crm->max('SELECT mc_retry()'), '1 0', 'mc_retry of all ends that');
$crm->run;
is($crm->rita("SELECT state FROM mc_audience WHERE audience = 'second'") . ' ' . $crm->status('second'), 'active in_sync 1', 'and it works');

# -----------------------------------------------------------------------------------------------------------------
# Clocks that differ: ours is two hours ahead of Mailchimp's, then two behind
# -----------------------------------------------------------------------------------------------------------------

sub our_clock
{
	my ($seconds) = @_;
	$node->clock_ahead($crm->{later} + $seconds);
}

my $who = 20;
for my $ahead (7200, -7200)
{
	my $wait = $ahead > 0 ? 0 : 90000;		# until what was done by the former clock is past
	for my $round (1 .. 3)
	{
		$crm->later(660 + $wait);
		our_clock($ahead);
		$crm->run;
		$sim->post('/_sim/act', { list => $list, email => 'c' . ++$who . '@crm.test', action => 'unsubscribe' });
		$crm->later(660);
		our_clock($ahead);
		$crm->run;
		is($crm->state($who), 'opted_out|is in the opt-out group', "a clock that is $ahead s ahead, round $round: who unsubscribes is seen");
		$wait = 0;
	}
}

# A walk goes on where it was though rows that it has seen change meanwhile.
$node->query('CREATE OR REPLACE FUNCTION mailchimp_sync.page_size() RETURNS integer LANGUAGE sql IMMUTABLE AS $$SELECT 3$$');
for (30 .. 36)
{
	$sim->post('/_sim/clock', { advance => 5 });
	$sim->post('/_sim/act', { list => $list, email => "c$_\@crm.test", action => 'unsubscribe' });
}
$sim->hold(method => 'GET', path => '/members$', nth => 2, when => 'before');
$crm->later(660);
our_clock(0);
my $run = $node->session(as => 'max');
McTest::begin($run, 'CALL mc_run();');
$sim->wait_held;
$sim->post('/_sim/act', { list => $list, email => "c$_\@crm.test", action => 'edit', merge_fields => { FNAME => 'Moved' } }) for 30 .. 32;
$sim->release;
$run->query('');
is(join(' ', map { $crm->state($_) =~ s/\|.*//r } 30 .. 36), join(' ', ('opted_out') x 7), 'nobody is passed over in a walk');
$run->quit;

done_testing();
