# Who wins where the CRM and Mailchimp have changed the same contact (R82, R85, D14, N5): each policy, field by field and by the address, each with
# a list of its own; nothing is sent back that came in, and all is quiet afterwards. The table of cases is in regress conflict.

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my @policies = qw(crm_wins mailchimp_wins latest_wins);
my $crm = McCrm->start('main', demo => { lists => [ { name => 'Customers' }, map { { name => $_ } } @policies ] });
my ($node, $sim) = @$crm{qw(node sim)};
my %list = map { $_->{name} => $_->{id} } @{ $crm->{demo}{lists} };
my $push = 'POST /lists/{list_id}';

# For each policy a table and a list; person n of policy x is xn@crm.test.
$crm->ann("SELECT mc_drop_audience('people')");
for my $policy (@policies)
{
	$crm->ann(qq{CREATE TABLE crm.$policy (id bigint PRIMARY KEY, first_name text, last_name text, email text UNIQUE, status text, active boolean DEFAULT true);
		CREATE INDEX ON crm.$policy (lower(email));
		INSERT INTO crm.$policy SELECT g, 'F' || g, 'L' || g, 'p' || g || '\@crm.test' FROM generate_series(1, 8) g;
		SELECT mc_add_source('$policy', 'crm.$policy', 'id', 'email', '{"FNAME": "first_name", "LNAME": "last_name"}');
		SELECT mc_create_audience('$policy', 'main', '$policy', '$policy', 'active', direction => 'both', conflict => '$policy');
		SELECT mc_set_inbound('$policy', '$policy', '{"email": "email", "FNAME": "first_name", "LNAME": "last_name", "status": "status"}');
		SELECT mc_sync_audience('$policy')});
}
$crm->run;
$crm->requests;

sub act { my ($n, $action, %more) = @_; $sim->post('/_sim/act', { list => $list{$_}, email => "p$n\@crm.test", action => $action, %more }) for @policies }
sub set { my ($values, @ids) = @_; $crm->ann(join ';', map { "UPDATE crm.$_ SET $values WHERE id IN (" . join(',', @ids) . ')' } @policies) }
# Twice: a page that was asked for while a push was under way leaves its members out.
sub pull { for (1, 2) { $crm->max("SELECT mc_pull('$_')") for @policies; $crm->run } }

# CRM and Mailchimp of person n, for each policy
sub sides
{
	my ($n) = @_;
	my @sides;
	for my $policy (@policies)
	{
		my ($m) = grep { $_->{email_address} =~ /^p$n(new|moved)?\@/ && $_->{status} ne 'archived' } @{ $sim->get("/_sim/lists/$list{$policy}/members")->{members} };
		my $there = $m ? join(' ', (split /\@/, $m->{email_address})[0], map { $m->{merge_fields}{$_} } qw(FNAME LNAME)) : 'nobody';
		my $here = $crm->ann("SELECT split_part(email, '\@', 1) || ' ' || coalesce(first_name, '') || ' ' || last_name FROM crm.$policy WHERE id = $n");
		push @sides, $here eq $there ? $here : "$here / $there";
	}
	return join ', ', @sides;
}

sub quiet
{
	my ($what) = @_;
	$crm->run;
	$crm->requests;
	pull();
	$crm->run;
	is($crm->requests, '', "N5: $what: quiet afterwards");
	is($crm->rita("SELECT string_agg(DISTINCT state, ',') FROM mc_contact_state"), 'in_sync', 'and all in sync');
}

quiet('the first fill');

# one side each, and another field on the other side
act(1, 'edit', merge_fields => { FNAME => 'There' });
set("last_name = 'Here'", 2);
act(3, 'edit', merge_fields => { FNAME => 'There' });
set("last_name = 'Here'", 3);
pull();
is(sides(1), 'p1 F1 L1, p1 There L1, p1 There L1', 'R85: a change at Mailchimp comes in, but where the CRM wins');
is(sides(2), 'p2 F2 Here, p2 F2 Here, p2 F2 Here', 'a change in the CRM goes out');
is(sides(3), 'p3 F3 Here, p3 There Here, p3 There Here', 'both at once, each in a field of its own');
quiet('changes on one side');

# the same field on both sides; an empty value
$crm->later(60);
set("first_name = 'Here'", 4);
$crm->later(60);
act(4, 'edit', merge_fields => { FNAME => 'There' });
act(5, 'edit', merge_fields => { FNAME => 'There' });
$crm->later(60);
set("first_name = 'Here'", 5);
act(6, 'edit', merge_fields => { FNAME => '' });
set("first_name = ''", 7);
act(7, 'edit', merge_fields => { LNAME => 'There' });
act(8, 'edit', merge_fields => { FNAME => 'Same' });
set("first_name = 'Same'", 8);
pull();
is(sides(4), 'p4 Here L4, p4 There L4, p4 There L4', 'R85, D14: the same field, Mailchimp the later');
is(sides(5), 'p5 Here L5, p5 There L5, p5 Here L5', 'and the CRM the later');
is(sides(6), 'p6 F6 L6, p6 F6 L6, p6 F6 L6', 'D14: what Mailchimp emptied comes in nowhere, and is put back');
is(sides(7), 'p7  L7, p7  There, p7  There', 'what the CRM emptied goes out');
is(sides(8), 'p8 Same L8, p8 Same L8, p8 Same L8', 'the same on both sides');
quiet('changes on both sides');
set("first_name = 'Later'", 8);
act(8, 'edit', merge_fields => { LNAME => 'Later' });
pull();
is(sides(8), 'p8 Later L8, p8 Later Later, p8 Later Later', 'who came to agree has a new base: only one has changed since');

# the address
$crm->later(60);
set("email = 'p1new\@crm.test'", 1);
act(2, 'change_email', new_email => 'p2moved@crm.test');
act(3, 'change_email', new_email => 'p3moved@crm.test');
$crm->later(60);
set("email = 'p3new\@crm.test'", 3);
set("email = 'p4new\@crm.test'", 4);
$crm->later(60);
act(4, 'change_email', new_email => 'p4moved@crm.test');
pull();
is(sides(1), 'p1new F1 L1, p1new There L1, p1new There L1', 'an address that the CRM changed goes out');
is(sides(2), 'p2 F2 Here, p2moved F2 Here, p2moved F2 Here', 'one that was changed at Mailchimp comes in, but where the CRM wins');
is(sides(3), 'p3new F3 Here, p3moved There Here, p3new There Here', 'both, the CRM the later');
is(sides(4), 'p4new Here L4, p4moved There L4, p4moved There L4', 'both, Mailchimp the later');
quiet('addresses');
is(join(' ', map { scalar @{ $sim->get("/_sim/lists/$list{$_}/members")->{members} } } @policies), '8 8 8', 'nobody is there twice');

# ... which changes there while ours is on its way: found by its id, not subscribed once more
my $session = $node->session(as => 'max');
for my $policy (@policies)
{
	$sim->hold(method => 'PATCH', path => '/members/', when => 'before');
	$crm->ann("UPDATE crm.$policy SET email = 'p5new\@crm.test' WHERE id = 5");
	McTest::begin($session, 'CALL mc_run();');
	$sim->wait_held;
	$crm->later(5);
	$sim->post('/_sim/act', { list => $list{$policy}, email => 'p5@crm.test', action => 'change_email', new_email => 'p5moved@crm.test' });
	$sim->release;
	$session->query('');
}
pull();
is(sides(5), 'p5new Here L5, p5moved There L5, p5moved Here L5', 'an address that changes at Mailchimp while ours is on its way');
quiet('an address that is not found');
is(join(' ', map { scalar @{ $sim->get("/_sim/lists/$list{$_}/members")->{members} } } @policies), '8 8 8', 'nor is anybody there twice then');

# A push whose answer is lost has landed, and Mailchimp takes no other for a while: what a read shows then is no edit
my $there = "^/lists/$list{mailchimp_wins}\$";
$sim->fault(method => 'POST', path => $there, fault => 'reset_after');
$sim->fault(method => 'POST', path => $there, fault => 'html_502', times => -1);
$crm->ann("UPDATE crm.mailchimp_wins SET first_name = 'Landed' WHERE id = 6");
McTest::begin($session, 'CALL mc_run();');
$node->wait_until("SELECT EXISTS (SELECT FROM mc_request WHERE work = 'push' AND outcome = 'doubt')");
$crm->ann("UPDATE crm.mailchimp_wins SET first_name = 'Here' WHERE id = 6");
$session->query('');
$crm->later(700);
pull();
$sim->delete('/_sim/faults');
$crm->later(700);
pull();
is((split /, /, sides(6))[1], 'p6 Here L6', 'R85: our own push that has landed is no change at Mailchimp');
quiet('a push that landed');

done_testing;
