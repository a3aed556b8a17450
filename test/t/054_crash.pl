# A crash at any request of a push loses nothing and doubles nothing (N5, design.md rule 5 "doubt"): the worker is killed, or
# the server stopped at once, while a request is held before or after its effect at Mailchimp. Afterwards every
# change arrives, also when the old request lands late, after newer ones; nobody is subscribed again who left; nothing
# stays under way. The kinds of requests are those that the journal of an undisturbed run shows.
#
# A campaign has its own in 035_campaign_crash.pl.

use strict;
use warnings;
use McPeople;
use McTest;
use Test::More;

my $sim = McTest::Simulator->start;
$sim->post('/_sim/demo');
$sim->post('/_sim/config', { merge_field_limit => 200 });
my $node = McTest::Node->start('main', extension => 0, conf => "mailchimp_sync.databases = 'one'\n");
$node->query('CREATE DATABASE one');
my $people = McPeople->new($node, $sim, db => 'one', people => 100);
$people->sync;
$people->wait_in_step;

# Whoever leaves at Mailchimp stays away, whatever is sent again.
$sim->post('/_sim/act', { list => $people->{list_id}, email => 'p2@crm.test', action => 'unsubscribe' });
$people->ann("UPDATE crm.person SET city = 'Delft' WHERE id = 2");
$people->wait_until("SELECT state = 'opted_out' FROM mc_contact_state WHERE contact_key = '2'");

# People are there before, so that each change is one of its own; who is new comes with a number beyond these.
my $n = 2;
my $new = 1000;

# What can be done, to person n: the change, and one that comes after the crash.
my $fields = '"FNAME": "first_name", "CITY": "city"';
my @steps = (
	{ name => 'a new merge field', sql => sub {
		$people->later(61);		# what the list has was read just now
		$fields .= qq{, "F$_[0]": "city"};
		return "SELECT mc_add_source('person', 'crm.person', 'id', 'email', '{$fields}')";
	} },
	{ name => 'a new contact', sql => sub { $new++; "INSERT INTO crm.person VALUES ($new, 'New', 'Ede', 'p$new\@crm.test')" },
		later => sub { "UPDATE crm.person SET first_name = 'Newer' WHERE id = $new" } },
	{ name => 'a change', sql => "UPDATE crm.person SET first_name = 'Changed' WHERE id = %d",
		later => "UPDATE crm.person SET first_name = 'Again' WHERE id = %d" },
	{ name => 'an address', sql => "UPDATE crm.person SET email = 'p%1\$d+new\@crm.test' WHERE id = %1\$d" },
	{ name => 'a leave', sql => 'UPDATE crm.person SET active = false WHERE id = %d' },
	{ name => 'a leave that is taken back', sql => 'UPDATE crm.person SET active = false WHERE id = %d',
		later => 'UPDATE crm.person SET active = true WHERE id = %d', waits => 1 },
	{ name => 'an opt-out', sql => "SELECT mc_opt_out('person', %d)" },
	{ name => 'reading', sql => sub { $people->later(700); 'SELECT 1' } });

sub sql { my ($what, $n) = @_; return ref $what ? $what->($n) : sprintf($what, $n) }

sub last_request { my @all = $sim->journal; return @all ? $all[-1]{n} : 0 }

# -----------------------------------------------------------------------------------------------------------------
# Undisturbed
# -----------------------------------------------------------------------------------------------------------------

my (@kinds, %known);
for my $step (@steps)
{
	my $since = last_request();
	$people->ann(sql($step->{sql}, ++$n));
	$sim->wait_requests(1, since => $since);
	$people->wait_in_step;
	my %seen;
	for my $request ($sim->journal(since => $since))
	{
		my $kind = $request->{route};
		$known{$kind} = 1;
		push @kinds, { step => $step, route => $kind } unless $seen{$kind}++;
	}
}
is(join("\n", sort keys %known), join("\n", sort(
		'DELETE /lists/{list_id}/members/{subscriber_hash}',
		'GET /lists/{list_id}/members',
		'GET /lists/{list_id}/merge-fields',
		'PATCH /lists/{list_id}/members/{subscriber_hash}',
		'POST /lists/{list_id}',
		'POST /lists/{list_id}/merge-fields')), 'the kinds of requests of a push');

# -----------------------------------------------------------------------------------------------------------------
# Each of them, at each crash
# -----------------------------------------------------------------------------------------------------------------

my %crashes = ('the worker is killed' => 'kill_worker', 'the server stops' => 'stop_at_once');

sub open_requests { return scalar grep { !defined $_->{ended} } $sim->journal }

sub one_crash
{
	my ($kind, $crash, $when) = @_;
	my ($step, $how) = ($kind->{step}, $crashes{$crash});
	my ($method, $path) = split / /, $kind->{route} =~ s/\{[^}]*\}/[^\/]+/gr;

	$n++;
	$sim->hold(method => $method, path => "^$path\$", when => $when);
	$people->ann(sql($step->{sql}, $n));
	$sim->wait_held;
	$node->$how(db => 'one');
	if ($step->{later})
	{
		$people->ann(sql($step->{later}, $n));
		$people->wait_in_step unless $step->{waits};
	}
	# now the old one lands, if it has not before
	$sim->release;
	McTest::poll('the end of the old request', sub { open_requests() == 0 });
	$people->later(140);
	# the end of the ghost may ask for more
	$people->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.inflight)');
	$people->wait_in_step;
	ok($people->in_step, "$step->{name}: $kind->{route}, $when its effect: $crash");
}

my %ran;
my $start = last_request();
for my $kind (@kinds)
{
	for my $crash (sort keys %crashes)
	{
		for my $when (qw(before after))
		{
			one_crash($kind, $crash, $when);
			$ran{ $kind->{route} }++;
		}
	}
}
my $pairs = 0;
$pairs += $_ for values %ran;
note "$pairs pairs of request and fault: ", join(', ', map { "$ran{$_} at $_" } sort keys %ran);
for my $kind (sort keys %known) { ok($ran{$kind} && $ran{$kind} % 4 == 0, "$kind met every crash") }
is(join(' ', sort grep { !$known{$_} } map { $_->{route} } $sim->journal(since => $start)), '', 'there was no request of another kind');

# -----------------------------------------------------------------------------------------------------------------
# What is at Mailchimp in the end
# -----------------------------------------------------------------------------------------------------------------

my %status;
my @members = @{ $sim->get("/_sim/lists/$people->{list_id}/members")->{members} };
$status{ $_->{status} }++ for @members;
is(scalar(@members), $people->super('SELECT count(*) FROM crm.person'), 'one member for each person');
is($status{archived}, $people->super('SELECT count(*) FROM crm.person WHERE NOT active'), 'who left is archived');
is($status{unsubscribed}, $people->super('SELECT count(*) FROM mc_group_member'), 'who opted out is unsubscribed');
is((grep { $_->{email_address} eq 'p2@crm.test' } @members)[0]{status}, 'unsubscribed', 'who unsubscribed was never subscribed again');
is($people->mia('SELECT count(*) FROM mc_failure'), 0, 'nothing failed');
is($people->mia("SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM mc_contact_state"), 'in_sync opted_out outside', 'every contact has come to rest');

$node->stop;
done_testing();
