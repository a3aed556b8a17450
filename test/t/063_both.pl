# Both ways (R82, R85, D14, D15, D16, D20): who is there already is adopted, what the CRM changed goes out and nothing else, what came
# in is not sent back, and who wins where both sides have changed. What comes in by itself is in 062_inbound, the table of cases in regress conflict.

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 4, audience => q{, direction => 'both'});
my ($node, $sim) = @$crm{qw(node sim)};
my $push = 'POST /lists/{list_id}';

# What requests carried for whom: c1 FNAME=..., by address and field
sub carried
{
	my @members = map { @{ $_->{body}{members} } } grep { $_->{route} eq $push } $crm->journal;
	return join '; ', map { my $m = $_; (split /\@/, $m->{email_address})[0] . ' ' . join ',', map { "$_=$m->{merge_fields}{$_}" } sort keys %{ $m->{merge_fields} } } @members;
}
sub fields { my ($name) = @_; my $f = $crm->member("$name\@crm.test")->{merge_fields} // {}; return join ',', map { "$_=$f->{$_}" } grep { ($f->{$_} // '') ne '' && !ref $f->{$_} } sort keys %$f }
sub look_there { $crm->later(660); $crm->run }

# -----------------------------------------------------------------------------------------------------------------
# Adoption (D15, D20)
# -----------------------------------------------------------------------------------------------------------------

$crm->act('c1', 'add', merge_fields => { FNAME => 'F1', LNAME => 'L1' });
$crm->act('c2', 'add', merge_fields => { FNAME => 'Other', LNAME => 'L2' });
$crm->act('stranger', 'add', merge_fields => { FNAME => 'Stranger' });
$crm->ann("UPDATE crm.candidate SET groups = NULL, owner_id = NULL");
$crm->sync;
is($crm->status, 'in_sync 4', 'R82: all in sync');
is(carried(), 'c2 FNAME=F2; c3 FNAME=F3,LNAME=L3,OWNERNAME=; c4 FNAME=F4,LNAME=L4,OWNERNAME=',
	'R85, D20: who is found as the CRM wants them costs no request, of who differs only that is sent, who is new gets all');
is($crm->rita("SELECT string_agg(split_part(email, '\@', 1) || ' ' || foreign_member, ',' ORDER BY email) FROM mc_member"),
	'c1 false,c2 false,c3 false,c4 false,stranger true', 'D15, D20: the adopted ones are ours, a stranger is not');
$crm->run;
is($crm->requests, '', 'N5: and no request when nothing has changed');

# -----------------------------------------------------------------------------------------------------------------
# What the CRM changed goes out, by the field, and what is the CRM's own is put right (R85)
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("UPDATE crm.candidate SET first_name = 'Anna' WHERE id = 1");
is($crm->max("SELECT action, before -> 'merge_fields', after -> 'merge_fields' FROM mc_preview('people')"),
	'update|{"FNAME": "F1", "LNAME": "L1", "OWNERNAME": ""}|{"FNAME": "Anna", "LNAME": "L1", "OWNERNAME": ""}', 'N4: the preview shows it');
$crm->run;
is(carried(), 'c1 FNAME=Anna', 'only what was changed is sent');
$crm->act('c1', 'edit', merge_fields => { LNAME => 'Edited' });
$crm->act('c3', 'edit', merge_fields => { FNAME => 'Edited' });
$crm->ann("UPDATE crm.candidate SET first_name = 'Annie' WHERE id = 1");
$crm->run;
is(carried(), 'c1 FNAME=Annie,LNAME=L1; c3 FNAME=F3', 'R85: what is not to come in is read before a push, and put right, field by field');
is(fields('c1'), 'FNAME=Annie,LNAME=L1', 'as the CRM has it');
$crm->ann("UPDATE crm.candidate SET groups = '{a}' WHERE id IN (1, 2)");
$crm->run;
is(carried() . ' ' . $crm->tags(1), 'c1 ; c2  a', 'D16: tags go out by themselves');
$crm->act('c1', 'tag', tag => 'by hand');
$crm->ann("UPDATE crm.candidate SET groups = NULL WHERE id = 1");
$crm->run;
is($crm->tags(1), 'by hand', 'D16: and only ours are taken away');

# -----------------------------------------------------------------------------------------------------------------
# A push whose answer is lost, and the CRM goes back to the old value before the next one: what is there, nobody knows
# -----------------------------------------------------------------------------------------------------------------

my $session = $node->session(as => 'max');
carried();
$sim->fault(method => 'POST', path => '^/lists/[^/]+$', fault => 'reset_after');
$crm->ann("UPDATE crm.candidate SET first_name = 'Passing' WHERE id = 4");
McTest::begin($session, 'CALL mc_run();');
$node->wait_until("SELECT EXISTS (SELECT FROM mc_request WHERE work = 'push' AND outcome = 'doubt')");
$crm->ann("UPDATE crm.candidate SET first_name = 'F4' WHERE id = 4");
$session->query('');
$crm->run;
is(fields('c4') . ' ' . $crm->status, 'FNAME=F4,LNAME=L4 in_sync 4', 'R85: the old value is sent once more');
like(carried(), qr/^c4 FNAME=Passing; (c4 FNAME=Passing; )?c4 FNAME=F4$/, 'and nothing else with it');
$crm->later(131);
$crm->run;
is(carried(), 'c4 FNAME=F4', 'and when the first one cannot land any more');

# -----------------------------------------------------------------------------------------------------------------
# Only into the CRM (R82)
# -----------------------------------------------------------------------------------------------------------------

$crm->max("SELECT mc_opt_out('candidate', 2)");
$crm->run;
$crm->ann(q{SELECT mc_alter_audience('people', '{"direction": "pull"}');
	UPDATE crm.candidate SET first_name = 'Unsent', email = 'new' || email WHERE id = 3;
	UPDATE crm.candidate SET active = false WHERE id = 4;
	INSERT INTO crm.candidate VALUES (5, 'F5', 'L5', 'c5@crm.test'), (6, 'F6', 'L6', 'stranger@crm.test'), (7, 'F7', 'L7', 'c1@crm.test');
	UPDATE crm.candidate SET email = 'no address' WHERE id = 7});
$crm->requests;
$crm->run;
is($crm->requests, '', 'R82: nothing is sent');
is($crm->status, 'in_sync 3 opted_out 1 outside 1', 'N8: who is a member is in sync, wherever it is, who is none is none of its business');
is($crm->max("SELECT count(*) FROM mc_preview('people') WHERE action NOT IN ('skip', 'conflict')"), '0', 'N4: and nothing is to be done');
my $campaign = $crm->max("SELECT mc_create_campaign('Pulled', 'people', 'Newsletter', 'CRM', 'crm\@example.org')");
is($crm->max("SELECT mc_add_recipients($campaign, 'candidate', '{1,2,3,5,6}')"), '2', 'who is no member is in no campaign');
$crm->max("SELECT mc_send_campaign($campaign)");
$crm->run;
is(join(' ', sort map { $_->{email} } @{ $sim->get('/_sim/mails')->{mails} }), 'c1@crm.test stranger@crm.test', 'D15: the others get it');
is(join(', ', grep { $_ !~ m{^GET|/(segments|campaigns)} } split /, /, $crm->requests), '', 'and nobody is changed for it');
$crm->act('c1', 'unsubscribe');
$crm->max("SELECT mc_opt_out('candidate', 6), mc_opt_out('candidate', 3)");
look_there();
is(join(' ', map { $crm->member("$_\@crm.test")->{status} } qw(c1 c3 stranger)), 'unsubscribed unsubscribed unsubscribed',
	'D12: an opt-out is carried there all the same, also of who has another address in the CRM');
is($crm->status, 'opted_out 4 outside 1', 'D11: and who unsubscribes has opted out');


# Who left before the CRM had them: on the list they are known, so no push would find out
for my $direction (qw(pull both))
{
	my $id = $direction eq 'pull' ? 50 : 51;
	$crm->ann(qq{SELECT mc_alter_audience('people', '{"direction": "$direction"}')});
	$crm->act("c$id", $_) for qw(add unsubscribe);
	look_there();
	$crm->ann("INSERT INTO crm.candidate (id, first_name, email) VALUES ($id, 'Late', 'c$id\@crm.test')");
	$crm->run;
	is($crm->rita("SELECT origin FROM mc_group_member WHERE contact_key = '$id'"), 'mailchimp', "D11: $direction: who unsubscribed before joins the group on coming into the CRM");
	$crm->max("SELECT mc_opt_in('candidate', $id)");
	$crm->ann("UPDATE crm.candidate SET first_name = 'Let in' WHERE id = $id");
	$crm->run;
	is($crm->rita("SELECT count(*) FROM mc_group_member WHERE contact_key = '$id'"), '0', 'once: who is let in again stays so');
}

# -----------------------------------------------------------------------------------------------------------------
# From one direction to another
# -----------------------------------------------------------------------------------------------------------------

sub turn { my ($direction) = @_; $crm->ann(qq{SELECT mc_alter_audience('people', '{"direction": "$direction"}')}); $crm->run; return join ', ', grep { !/^GET/ } split /, /, $crm->requests }
$crm->requests;
is(turn('pull'), '', 'R82: only into the CRM again');
$crm->ann(q{INSERT INTO crm.candidate VALUES (52, 'F52', 'L52', 'c52@crm.test')});
is(turn('both') . ' ' . $crm->shown('c52@crm.test'), "$push 200 subscribed|F52|", 'both ways: who is no member yet becomes one, nobody else is touched');
is(turn('push'), '', 'one way: all is there');
$crm->act('c52', 'edit', merge_fields => { LNAME => 'Edited' });
is(turn('both') . ' ' . fields('c52'), "$push 200 FNAME=F52,LNAME=L52", 'what was changed at Mailchimp while that was not read is known then');
is($crm->state(52), 'in_sync|', 'and all is well');

done_testing;
