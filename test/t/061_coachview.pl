# Coachview's way, the second of docs/examples.md: a rule decides who is in the audience (R8-R12, R15, R72-R81, R94, R111, D22,
# D23, N4, N5, N18). Played section by section; after each one what became of it at Mailchimp.

use strict;
use warnings;
use McGuide;
use McTest;
use Test::More;

my $sim = McTest::Simulator->start;
my $account = $sim->post('/_sim/demo', { lists => [ { name => 'Cursisten' }, { name => 'Oud-cursisten' } ] });
my $node = McTest::Node->start('main', extension => 0);
my $guide = McGuide->new('docs/examples.md', chapter => 'Coachview: a rule decides', node => $node, sim => $sim, key => 'demo-us1');
my ($list, $alumni) = map { $_->{id} } @{ $account->{lists} };
my $since = 0;

# At Mailchimp: address and status of everybody, but for who is archived.
sub people
{
	my ($of) = @_;
	return join ', ', map { ($_->{email_address} =~ /(\w+)/)[0] . " $_->{status}" } grep { $_->{status} ne 'archived' } @{ $sim->get("/_sim/lists/$of/members")->{members} };
}

sub member { my ($of, $name) = @_; return (grep { $_->{email_address} =~ /^$name\@/ } @{ $sim->get("/_sim/lists/$of/members")->{members} })[0] // {} }

# What was written at Mailchimp since the last call: whom pushes carried, and the other requests.
sub written
{
	my @entries = $sim->journal(since => $since);
	my (@pushed, @others);
	$since = $entries[-1]{n} if @entries;
	for (grep { $_->{method} ne 'GET' } @entries)
	{
		if ($_->{body} && $_->{body}{members}) { push @pushed, map { $_->{email_address} =~ /^(\w+)/ } @{ $_->{body}{members} } }
		elsif ($_->{route} =~ m{/members/\{subscriber_hash\}$}) { push @others, "$_->{method} member" }
		else { push @others, $_->{route} }
	}
	return join ', ', (@pushed ? 'pushed ' . join(' ', sort @pushed) : ()), sort @others;
}

sub run { return $node->query('CALL mc_run()', as => 'mia') }
sub reader { return $node->query($_[0], as => 'ron') }
sub act { my ($action, %more) = @_; return $sim->post('/_sim/act', { list => $list, action => $action, %more }) }

# -----------------------------------------------------------------------------------------------------------------
# Made: the audiences are there, and nothing at Mailchimp
# -----------------------------------------------------------------------------------------------------------------

$guide->play($_) for "The institute's tables", 'Lists, audiences and a rule';
is(reader('SELECT audience, list_name FROM mc_audience ORDER BY 1'), "Alumni|Oud-cursisten\nCourse members|Cursisten",
	'R8, R10-R12: an audience for each list comes with the call, under a name of its own');
run();
is(written(), '', 'R9: nothing is pushed before it is switched on');

# -----------------------------------------------------------------------------------------------------------------
# Tried out, then in earnest
# -----------------------------------------------------------------------------------------------------------------

$guide->play('Training');
is(people($list), 'test1 subscribed, test2 subscribed', 'R15, N18: only the test persons are pushed');
is_deeply({ %{ member($list, 'test1')->{merge_fields} }, ADDRESS => 0, PHONE => 0 },
	{ FNAME => 'Test', LNAME => 'de Vries', INITIALS => 'T.', PREFIX => 'de', GENDER => 'f', ADDRESS => 0, PHONE => 0 },
	'R15, D23: with first name, initials, prefix, last name and gender');
is(member($list, 'test2')->{merge_fields}{LNAME} . '|' . member($list, 'test2')->{merge_fields}{PREFIX}, 'Bakker|', 'D23: or without a prefix');
written();

$guide->play('In earnest');
is(people($list), 'noor subscribed, olaf subscribed, petra subscribed, test1 subscribed, test2 subscribed', 'R72: whom the rule takes');
is(written(), 'pushed noor olaf petra', 'the rest, and nobody twice');
is(scalar(@{ $sim->get('/_sim/mails')->{confirmations} }), 0, 'R80: nobody was asked to confirm');
is(people($alumni) . reader("SELECT state FROM mc_audience WHERE audience = 'Alumni'"), 'new', 'R9: the other audience is not on yet');

# -----------------------------------------------------------------------------------------------------------------
# The three actions, by the rule, a watched table and the date
# -----------------------------------------------------------------------------------------------------------------

$guide->play('In, changed, out');
is(member($list, 'roos')->{status}, 'subscribed', 'R73: who enters is made');
is(member($list, 'test1')->{status}, 'archived', 'R74: who leaves is taken away');
is(member($list, 'olaf')->{merge_fields}{LNAME}, 'Prins-Bos', 'R75: what changed is changed');
is(written(), 'pushed olaf roos, DELETE member', 'R78, D22, N4: the run did what the preview showed, and no more');

# Her course ends at an instant at which nobody writes anything. A machine that is slow gets more time before that.
my $still = "SELECT max(ends) > now() - interval '1 year' FROM coach.enrolment WHERE person_id = 3";
for (my $seconds = 2; ; $seconds *= 2)
{
	$node->query("UPDATE coach.enrolment SET ends = now() - interval '1 year' + interval '$seconds s' WHERE person_id = 3");
	run();
	last if $node->query($still) eq 't';
}
written();
$node->wait_until("SELECT NOT ($still)");
run();
is(written() . member($list, 'noor')->{status}, 'subscribed', 'no change, no event');
$guide->later(86_400 + 60);
run();
is(written() . ' ' . member($list, 'noor')->{status}, 'DELETE member archived', 'R74, N5: the daily comparison finds who left by the date');
$node->query("UPDATE coach.enrolment SET ends = now() + interval '30 days' WHERE person_id = 3");
run();
is(written() . ' ' . member($list, 'noor')->{status}, 'pushed noor subscribed', 'R73: the watched table brings her back');

# -----------------------------------------------------------------------------------------------------------------
# By hand
# -----------------------------------------------------------------------------------------------------------------

$guide->play('By hand');
is(member($list, 'quinten')->{status}, 'subscribed', 'R77: put in by hand');
is(member($list, 'test2')->{status}, 'archived', 'R77: taken out by hand');
is(people($alumni), 'olaf subscribed, petra subscribed, quinten subscribed', 'R8, R94: the other list has its own, and a selection beside them');
$node->query("SELECT mc_sync_audience('Course members')", as => 'mia');
run();
written();
is(member($list, 'quinten')->{status} . ' ' . member($list, 'test2')->{status}, 'subscribed archived', 'R77: which is stronger than the rule');
$guide->play('Back to the rule');
is(member($list, 'quinten')->{status} . ' ' . member($list, 'test2')->{status}, 'archived subscribed', 'R77: until it is given back to the rule');
written();

# -----------------------------------------------------------------------------------------------------------------
# What happens at Mailchimp
# -----------------------------------------------------------------------------------------------------------------

my $person = $node->query('SELECT p FROM coach.person p WHERE id = 3');
act('unsubscribe', email => 'noor@meer.example.org');
act('add', email => 'stranger@elsewhere.example.org', merge_fields => { FNAME => 'Not ours' });
$guide->later(601);
run();
$guide->play('At Mailchimp');
is($node->query('SELECT p FROM coach.person p WHERE id = 3'), $person, 'R76: the record of who unsubscribed stays as it is');
is(reader("SELECT mc_is_opted_out('person', 3)"), 'f', 'R76: inactive in this audience only');
$node->query("UPDATE coach.person SET first_name = 'Nora' WHERE id = 3; SELECT mc_sync_audience('Course members')");
run();
is(written() . member($list, 'noor')->{status}, 'unsubscribed', 'R76: nothing pushes an inactive one');
is(reader("SELECT count(*) FROM mc_contact_state WHERE email ~ 'stranger'") . $node->query("SELECT count(*) FROM coach.person WHERE email ~ 'stranger'"), '00',
	'R79: who was put on the list there is not in the audience, nor in the CRM');
is(member($list, 'stranger')->{status} . ' ' . member($list, 'stranger')->{merge_fields}{FNAME}, 'subscribed Not ours', 'R79: and is left alone');

# -----------------------------------------------------------------------------------------------------------------
# No newsletter any more; another rule
# -----------------------------------------------------------------------------------------------------------------

$guide->play('No newsletter any more');
is(member($list, 'olaf')->{status} . ' ' . member($alumni, 'olaf')->{status}, 'unsubscribed unsubscribed', 'R81: carried to every list');
written();
$guide->play('Another rule');
is(member($list, 'petra')->{status} . ' ' . written(), 'archived DELETE member', 'R111: who is not taken by the new rule leaves');
is(people($list), 'noor unsubscribed, olaf unsubscribed, roos subscribed, stranger subscribed, test2 subscribed', 'and the others are there');

$guide->done;
done_testing();
